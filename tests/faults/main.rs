//! The promises under faults. Compiled with `RUSTFLAGS="--cfg onceward_faults"` only, which lets the tests watch
//! the engine's files from inside.
#![cfg(onceward_faults)]
