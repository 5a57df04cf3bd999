//! Opens an LMDB environment. heed's `open` is unsafe, and the bench itself forbids unsafe code.

use std::path::Path;

use heed::{Env, EnvOpenOptions, Result, WithoutTls};

/// Opens the environment of a folder that only this process uses, with LMDB's default flags: each commit
/// is on the disk when it returns.
///
/// # Errors
///
/// What LMDB says.
pub fn open(folder: &Path, map_bytes: usize) -> Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_bytes).max_readers(512);
    // SAFETY: the caller makes the folder for this environment alone, on a local disk, opens it once at a
    // time, and nothing else writes to its files while they are mapped.
    unsafe { options.open(folder) }
}
