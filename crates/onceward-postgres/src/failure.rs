//! What an error of the server or of a connection says about the change that was asked for.

use std::error::Error as _;
use std::io;

use deadpool_postgres::{HookError, PoolError};
use onceward::register::Refused;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

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
        let unknown = &SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN;
        let passing = [
            &SqlState::T_R_SERIALIZATION_FAILURE,
            &SqlState::T_R_DEADLOCK_DETECTED,
            &SqlState::TOO_MANY_CONNECTIONS,
            &SqlState::OUT_OF_MEMORY,
            &SqlState::DISK_FULL,
            &SqlState::CANNOT_CONNECT_NOW,
        ];
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
        if passing.contains(&code) {
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

/// Whether what a connection was wanted for may be tried a little later. Nothing has changed:
/// nothing was asked yet.
pub(super) fn may_be_had_later(refused: &Refused) -> bool {
    let cause = refused.cause();
    if let Some(error) = cause.downcast_ref() {
        return may_pass_before(error);
    }
    match cause.downcast_ref() {
        Some(PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error))) => {
            may_pass_before(error)
        }
        // The server only reads, as a standby does until it is promoted.
        Some(PoolError::PostCreateHook(HookError::Message(_))) => true,
        _ => false,
    }
}

fn may_pass_before(error: &Error) -> bool {
    if error.code().is_some() {
        return Failure::of(error) != Failure::Refused;
    }
    let is_of_system = |cause: &(dyn std::error::Error + 'static)| cause.is::<io::Error>();
    error.is_closed() || error.source().is_some_and(is_of_system)
}

/// Whether a row was waited for in vain that a transaction has changed.
pub(super) fn is_locked(refused: &Refused) -> bool {
    refused.cause().downcast_ref().is_some_and(says_locked)
}

/// The same of an error.
pub(super) fn says_locked(error: &Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}
