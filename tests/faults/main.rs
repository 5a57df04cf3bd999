//! The promises under faults. Compiled with `RUSTFLAGS="--cfg onceward_faults"` only, which lets the tests watch
//! the engine's files from inside. `docs/RELIABILITY.md` says how to run them, and what they found.
#![cfg(onceward_faults)]

mod expected;
mod interruptions;
mod io_faults;
mod log;
mod mutants;
mod panics;
mod power_cuts;
mod promises;
mod protocol_model;
mod services;
mod slow_commits;
mod unclear;
mod user;
