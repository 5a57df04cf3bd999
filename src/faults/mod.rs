//! What the fault tests see and do inside the engine. Compiled with `--cfg onceward_faults` only, for one test
//! binary: nothing of it is in what users build.

mod image;
mod recorder;

pub use image::{Folder, Image, Random};
pub use recorder::{FileId, Op, Recorder};
pub(crate) use recorder::{WatchedFile, created, removed, renamed, synced_folder, wrote_whole};
