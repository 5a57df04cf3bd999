//! What the system and redb are asked for, and where the fault tests take hold of it.

pub(super) mod directory;
pub(super) mod disk;
pub(super) mod edge;
#[cfg(onceward_faults)]
mod watched_file;
