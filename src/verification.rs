//! What a walk through the whole store has found.

/// What [`Engine::verify`](crate::Engine::verify) has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// Segments that were walked through.
    pub segments: u64,
    /// Entries that were read and checked whole, the superseded ones in journals included.
    pub entries: u64,
    /// What is wrong, at most the first 1,000 problems.
    pub problems: Vec<Problem>,
    /// How many problems there were beyond those.
    pub further_problems: u64,
}

/// Something that is wrong in one file of the store's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The file's name in the engine's folder.
    pub file: String,
    /// What is wrong, and what to do. Names no key.
    pub what: String,
}

/// More problems than these say nothing that these don't.
const MOST_PROBLEMS: usize = 1_000;

impl Verification {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    pub(crate) fn note(&mut self, file: &str, what: impl Into<String>) {
        if self.problems.len() == MOST_PROBLEMS {
            self.further_problems += 1;
            return;
        }
        self.problems.push(Problem {
            file: file.to_owned(),
            what: what.into(),
        });
    }
}
