//! What is missing of a folder whose damage was accepted.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Something that a file lacks and that was acknowledged, told to
/// [`Builder::accept_damage`](crate::Builder::accept_damage).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file's name in the engine's folder.
    pub file: String,
    /// Which bytes of it can't be read, from its beginning; those behind are the next that can, or
    /// the file's end.
    pub bytes: Range<u64>,
    /// The numbers of the changes that stood there; `None` if nothing says how many there were.
    /// Each begin, renewal, completion, release and removal has a number of its own, and a begin's
    /// is its [fencing token](crate::Guard::token). None is missing if the range is empty.
    pub numbers: Option<Range<u64>>,
}

/// Who is told of the damage.
#[derive(Clone)]
pub(crate) struct OnDamage(pub(crate) Arc<dyn Fn(&Damage) + Send + Sync>);

impl fmt::Debug for OnDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnDamage")
    }
}
