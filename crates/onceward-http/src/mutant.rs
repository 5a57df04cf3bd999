//! Defects of the layer that the fault tests switch on, one at a time, to see themselves catch them. Outside their binary none of
//! them exists: the question is answered with `no` when it is compiled.

/// A defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The layer stops renewing a lease at the first error.
    StopsRenewing,
    /// A completion is given up that the store couldn't take at once.
    CompletionGivenUp,
}

/// Whether this process was started with that defect: its name in `ONCEWARD_MUTANT`.
#[cfg(onceward_faults)]
pub(crate) fn is_on(mutant: Mutant) -> bool {
    use std::sync::LazyLock;

    static NAME: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("ONCEWARD_MUTANT").ok());
    NAME.as_ref()
        .is_some_and(|name| *name == format!("{mutant:?}"))
}

#[cfg(not(onceward_faults))]
pub(crate) const fn is_on(_: Mutant) -> bool {
    false
}
