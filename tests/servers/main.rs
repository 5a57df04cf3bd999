//! The stores that several machines share, with real servers: started here, on loopback, in temporary folders.
//!
//! They come from Debian's packages `postgresql` and `redis-server`. A test whose server is missing fails, unless
//! `ONCEWARD_SKIP_SERVERS` is set.

mod on_postgres;
mod start;
