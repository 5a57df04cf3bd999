//! The layers over real sockets, with real clients.

mod demo;
mod raw;
mod servers;

mod clients;
mod profiles;
