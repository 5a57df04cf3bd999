//! What an error of the server or of a connection says about the change that was asked for.

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::store::register::Refused;

/// What is to be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing has changed; the same may work at once.
    Passing,
    /// Nothing has changed; another connection may do better: this one's server only reads, or its prepared statements are of
    /// no use any more.
    OtherConnection,
    /// Nothing has changed.
    Refused,
    /// The connection is gone, and with it the answer.
    Broken,
}

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        let Some(code) = error.code() else {
            return Self::Broken;
        };
        let (serialization, deadlock, unknown) = (
            &SqlState::T_R_SERIALIZATION_FAILURE,
            &SqlState::T_R_DEADLOCK_DETECTED,
            &SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN,
        );
        let of_connection = [
            &SqlState::READ_ONLY_SQL_TRANSACTION,
            &SqlState::INVALID_SQL_STATEMENT_NAME,
            // A cached plan must not change its result's type: the table was changed.
            &SqlState::FEATURE_NOT_SUPPORTED,
        ];
        // 08: connections; 57P: the server goes down; XX: it found itself broken, at whatever point.
        let is_gone = ["08", "57P", "XX"]
            .iter()
            .any(|class| code.code().starts_with(class));
        if code == serialization || code == deadlock {
            Self::Passing
        } else if of_connection.contains(&code) {
            Self::OtherConnection
        } else if code == unknown || is_gone {
            Self::Broken
        } else {
            Self::Refused
        }
    }

    /// Whether the same may work a little later.
    pub(super) fn may_pass(self) -> bool {
        matches!(self, Self::Passing | Self::OtherConnection)
    }

    /// Whether the connection can be used again.
    pub(super) fn spares_connection(self) -> bool {
        matches!(self, Self::Passing | Self::Refused)
    }

    pub(super) fn refused(self, error: Error) -> Refused {
        match self {
            Self::Broken => Refused::unknown(error),
            Self::Passing | Self::OtherConnection | Self::Refused => Refused::unchanged(error),
        }
    }
}

/// Whether a row was waited for in vain that a transaction has changed.
pub(super) fn is_locked(refused: &Refused) -> bool {
    refused.cause().downcast_ref().is_some_and(says_locked)
}

/// The same of an error.
pub(super) fn says_locked(error: &Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}
