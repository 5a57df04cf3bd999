//! The log: the file of a segment that isn't sealed yet, one frame for each batch of entries.
//!
//! A frame is written once, in blocks of its own, and synced before anybody is answered. Frame k + 1 is written only
//! after the sync of frame k has succeeded: so a whole frame behind a broken one proves that acknowledged bytes are
//! damaged, and where none is behind, the log ends. `docs/FORMAT.md` has the bytes.

mod file;
mod frame;
#[cfg(test)]
mod tests;
mod walk;

pub(super) use file::{Log, LogWriter};
pub(super) use frame::{Frame, FrameBuffer, MOST_LOG_BYTES, Seed, Span};
pub(super) use walk::Step;
