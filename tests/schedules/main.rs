//! Schedules of the engine's threads and its callers, explored with `shuttle`. Compiled with
//! `RUSTFLAGS="--cfg onceward_shuttle"` only, which lets it decide which thread goes on at every lock, channel and
//! atomic. `docs/RELIABILITY.md` says how to run them, and what they found.
#![cfg(onceward_shuttle)]

mod closing;
mod explore;
mod mutants;
mod upkeep;
mod waiting;
