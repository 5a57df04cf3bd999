//! The crate's error: opaque, with a kind to match on and a cause to follow.

use std::fmt;

/// The result of a call to the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call to the engine did not go through.
///
/// The message says what was wrong and what to do about it; [`kind`](Error::kind) is for code, and
/// [`source`](std::error::Error::source) leads to the cause where there is one. No message holds a
/// key, a scope or a body.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    is_outcome_unknown: bool,
}

/// What sort of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A scope or key is empty, too long, or holds a control character.
    InvalidKey,
    /// A fingerprint has no parts, too many, or two of one name.
    InvalidFingerprint,
    /// A builder's or a call's setting is out of range, or settings contradict each other.
    InvalidConfig,
    /// A reply is larger than the engine's limit, or has too many headers.
    ReplyTooLarge,
    /// The engine holds as many live keys, or takes as much of the disk, as it may; known keys still work.
    Full,
    /// The key's scope holds as many live keys as one may; its known keys and all other scopes still work.
    ScopeFull,
    /// The queue to the store stayed full for as long as the call was allowed to wait.
    Overloaded,
    /// The guard's lease was taken over, or its record is gone: it can't change the key any more.
    LeaseLost,
    /// The key can't be changed because an attempt is running under a live lease.
    InFlight,
    /// There is nothing to resolve under this key.
    NotInFlight,
    /// Another engine, in this process or another one, has the folder open. Within a process, clone
    /// the [`Engine`](crate::Engine) instead of opening it again.
    Locked,
    /// The path is not a folder of an engine's, or its parent doesn't exist; or others than its
    /// owner may write to the folder, or its file `LOCK` is a link or no regular file. Nothing was
    /// changed.
    NotAStore,
    /// The folder was written by a newer version of the crate, or before its first release.
    UnsupportedFormat,
    /// Data on the disk is damaged or missing. It is never answered from.
    Corrupt,
    /// The operating system refused a read, a write or a sync.
    Io,
    /// The store can't answer now, and makes no grants: after an error of the disk it tries again and
    /// again to go on by itself, or a server that keeps the records, or the outcomes, doesn't answer or
    /// refuses. It passes; the same call may succeed later. The message says which it is, and the
    /// error's source what the system or the server said.
    Unavailable,
    /// The store has failed for good, after a panic in one of its threads, say, or because its
    /// folder was moved or removed: it makes no grants and answers no retries until the engine is
    /// closed and opened again. The message says why.
    Failed,
    /// The engine was closed.
    Closed,
    /// A value could not be turned into a reply's body, or a body into a value.
    Encoding,
}

impl Error {
    /// An error of this kind, with a message that says what was wrong and what to do: for layers and for stores of one's own.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            source: None,
            is_outcome_unknown: false,
        }))
    }

    /// The same with what has caused it.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            source: Some(source.into()),
            is_outcome_unknown: false,
        }))
    }

    /// The same error, of a change that may have been made.
    pub(crate) fn of_unknown_outcome(mut self) -> Self {
        self.0.is_outcome_unknown = true;
        self
    }

    /// The same error with the folder that it is about in front of its message.
    pub(crate) fn about(mut self, folder: &std::path::Path) -> Self {
        self.0.message = format!("{}: {}", folder.display(), self.0.message);
        self
    }

    pub(crate) fn closed() -> Self {
        Self::new(
            ErrorKind::Closed,
            "the engine was closed; open it again to go on",
        )
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without anything else being changed: the store can't
    /// answer now, the queue was full, the keys were at their limit, another engine holds the folder, or
    /// an attempt is running. Not after [`ErrorKind::Failed`]: that lasts until the engine is opened again.
    ///
    /// An error of the disk under a change is one, too: the store goes on by itself once it can.
    pub fn is_transient(&self) -> bool {
        let is_of_change = self.kind() == ErrorKind::Io && self.is_outcome_unknown();
        is_of_change
            || matches!(
                self.kind(),
                ErrorKind::Unavailable
                    | ErrorKind::Overloaded
                    | ErrorKind::Full
                    | ErrorKind::ScopeFull
                    | ErrorKind::Locked
                    | ErrorKind::InFlight
            )
    }

    /// Whether the change that was asked for may have been made all the same, or may still be: its
    /// answer got lost, or the disk failed under it. If not, nothing was changed.
    ///
    /// Calling again is safe: `complete`, `renew` and `release` can be repeated with the guard that comes
    /// back in the error, and the grant of a begin whose outcome is unknown is released by the engine.
    pub fn is_outcome_unknown(&self) -> bool {
        self.0.is_outcome_unknown
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}
