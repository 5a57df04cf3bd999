//! Rows as a transaction of the caller's writes them: of an outcome, or of a register's own table.

use super::{RecordId, Value, Version};

/// A row to be written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OutcomeRow {
    /// Where.
    pub id: RecordId,
    /// What it may replace.
    pub replaces: Replaces,
    /// The version of the row under the id of 32 zeros, which says that this is the database that the engine knows. `None` if
    /// it needn't be there.
    pub mark: Option<Version>,
    /// What is to be there.
    pub value: Value,
    /// From when on it may be removed, in milliseconds since 1970.
    pub ends_at_ms: u64,
}

/// What an outcome may replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)] // A backend has to know both.
pub enum Replaces {
    /// Nothing; or a row whose version is a lower number, and which has ended by then, in milliseconds since 1970, or has no
    /// bytes.
    Older(u64),
    /// The row of this version, in the table of a [register](crate::register) on the same database.
    Version(Version),
}

/// What became of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)] // Backends make it.
#[must_use = "an outcome that was superseded must not be taken for done"]
pub enum Written {
    /// It commits with the transaction.
    Done,
    /// Another one is there, and this transaction can't commit.
    Superseded,
}
