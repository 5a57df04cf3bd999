//! Defects that the fault tests switch on, one at a time, to see themselves catch them. Outside their binary none
//! of them exists: the question is answered with `no` when it is compiled.

/// A defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Callers are answered before the commit.
    AnswerFirst,
    /// A journal that a crash has left is written to again.
    AppendsAfterCrash,
    /// A failed sync counts as a good one.
    BelievesFailedSync,
    /// A journal goes before its sealed file is on the disk.
    JournalDroppedEarly,
    /// Tokens aren't compared.
    AnyToken,
    /// The scope isn't part of a key's digest.
    NoScope,
    /// A segment is unlinked long before everything in it is over.
    UnlinkedEarly,
    /// Segments are unlinked as they come to be over, whatever their age.
    UnlinkedOutOfOrder,
}

#[cfg(onceward_faults)]
pub(crate) fn is_on(mutant: Mutant) -> bool {
    crate::faults::mutant().is_some_and(|name| name == format!("{mutant:?}"))
}

#[cfg(not(onceward_faults))]
pub(crate) const fn is_on(_: Mutant) -> bool {
    false
}
