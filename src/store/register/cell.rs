//! What a cell holds, for the fault tests, which judge by what the server has.

use super::Value;
use crate::codec::{self, EntryState};
use crate::record::Record;

/// What a cell says of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// An attempt was granted, or its lease renewed.
    InFlight {
        /// The key's text.
        key: String,
        /// The attempt's.
        token: u64,
        /// By the server's clock, in milliseconds since 1970.
        lease_until_ms: u64,
    },
    /// A reply is kept.
    Completed {
        /// The key's text.
        key: String,
        /// Of the attempt that completed it.
        token: u64,
    },
    /// The key is free.
    Free,
    /// It isn't a key's.
    Other,
}

/// Reads a cell.
pub fn cell(value: &Value) -> Cell {
    let Ok(entry) = codec::decode(&value.bytes) else {
        return Cell::Other;
    };
    let EntryState::Put { key, record } = entry.state else {
        return Cell::Free;
    };
    let key = key.map_or_else(String::new, |key| key.key().to_owned());
    match record {
        Record::InFlight(attempt) => Cell::InFlight {
            key,
            token: attempt.token,
            lease_until_ms: attempt.lease_until.0,
        },
        Record::Completed(completed) => Cell::Completed {
            key,
            token: completed.token,
        },
    }
}
