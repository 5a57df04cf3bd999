//! What the fault tests see and do inside the engine. Compiled with `--cfg onceward_faults` only, for one test
//! binary: nothing of it is in what users build.

mod failures;
mod image;
mod random;
mod recorder;

pub(crate) use failures::Asked;
pub use failures::Failures;
pub use image::{Folder, Image};
pub use random::Random;
pub use recorder::{FileId, Op, Recorder};

/// The defect that this process was started with: its name in `ONCEWARD_MUTANT`.
pub fn mutant() -> Option<&'static str> {
    crate::mutant::name()
}
