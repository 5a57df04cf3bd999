//! Defects that the fault tests and the explored schedules switch on, one at a time, to see themselves catch them.
//! Outside their binaries none of them exists: the question is answered with `no` when it is compiled.

/// A defect.
// Some are of a register, and switched on where there are any.
#[cfg_attr(not(feature = "register"), allow(dead_code))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Callers are answered before the commit.
    AnswerFirst,
    /// A frame's checksum doesn't cover its offset.
    FrameAnywhere,
    /// Whoever knows the format can make a frame.
    FrameOfAnybody,
    /// A file's frames don't depend on which file it is.
    FrameOfEarlierFile,
    /// A new log is listed before it is synced.
    NewLogNotSynced,
    /// Whoever commits in its own thread and meets an error leaves the others behind: nobody goes
    /// on from it.
    LeaderLeavesOthers,
    /// A log ends where no whole frame stands, whatever is behind.
    TailCutAtDamage,
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
    /// The counts by scope aren't kept when a segment is sealed.
    ScopesNotKept,
    /// The keys of a segment that is unlinked go on being counted by scope.
    ScopesNotEnded,
    /// A begin that is queued as the writer's thread ends stays there.
    LeftInQueue,
    /// A group of callers isn't woken though it has its answers.
    WakeLost,
    /// A waiter who goes takes the turn along that it was just given.
    TurnTaken,
    /// A waiter whose begin fails takes the turn along.
    TurnKept,
    /// A waiter doesn't look at the key again once it stands in line.
    NoSecondLook,
    /// What was read from the disk is kept for the next retry, whatever has happened meanwhile.
    KeepsSuperseded,
    /// An entry counts as there before the index knows it.
    CountsFirst,
    /// A guard's lease on a register ends by the server's clock as it was at open.
    LeaseByServersClock,
    /// The digests of a register come from its first cell, which may be lost.
    FirstCellMakesSecret,
}

#[cfg(any(onceward_faults, onceward_shuttle))]
pub(crate) fn is_on(mutant: Mutant) -> bool {
    name().is_some_and(|name| name == format!("{mutant:?}"))
}

/// The defect that this process was started with: its name in `ONCEWARD_MUTANT`.
#[cfg(any(onceward_faults, onceward_shuttle))]
pub(crate) fn name() -> Option<&'static str> {
    static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let name = NAME.get_or_init(|| std::env::var("ONCEWARD_MUTANT").ok());
    name.as_deref()
}

#[cfg(not(any(onceward_faults, onceward_shuttle)))]
pub(crate) const fn is_on(_: Mutant) -> bool {
    false
}
