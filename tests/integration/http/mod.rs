//! The layers over real sockets, with real clients.

mod demo;
mod engines;
mod raw;
mod servers;

mod bad_keys;
mod bodies;
mod clients;
mod concurrency;
mod failing_store;
mod grpc;
mod hyper_server;
mod layer;
#[cfg(feature = "testkit")]
mod nodes;
mod openapi;
#[cfg(feature = "testkit")]
mod pending;
mod process;
mod profiles;
