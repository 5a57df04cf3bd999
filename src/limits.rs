//! The bounds on everything that a caller hands in.

use std::time::Duration;

use crate::error::{Error, ErrorKind};

/// The longest scope, in bytes.
pub const MAX_SCOPE_BYTES: usize = 1_024;
/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 1_024;
/// The most parts that one fingerprint can have.
pub const MAX_FINGERPRINT_PARTS: usize = 32;
/// The longest name of a fingerprint's part, in bytes.
pub const MAX_PART_NAME_BYTES: usize = 64;
/// The most headers that one reply can have, and the most trailers.
pub const MAX_REPLY_HEADERS: usize = 1_024;
/// The largest value that [`Builder::max_reply_bytes`](crate::Builder::max_reply_bytes) takes.
pub const MAX_REPLY_BYTES: usize = 64 << 20;
/// The longest lease, per engine or per call.
pub const MAX_LEASE: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest retention, per engine or per call.
pub const MAX_RETENTION: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The lease of an engine that wasn't told otherwise: 2 minutes.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(120);
/// The retention of an engine that wasn't told otherwise: 24 hours.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// How long one attempt may run and how long its answer is kept; for
/// [`Engine::begin_with`](crate::Engine::begin_with).
///
/// Both are whole milliseconds; a fraction of one is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Terms {
    /// How long the key is held without a renewal: 1 ms to [`MAX_LEASE`].
    pub lease: Duration,
    /// How long the answer is replayed, counted from the completion, and how long an abandoned
    /// attempt is remembered after its lease: 1 ms to [`MAX_RETENTION`].
    pub retention: Duration,
}

impl Terms {
    /// Terms of the given lease and retention.
    ///
    /// They are checked where they are used: by `begin_with`, or when the engine is opened.
    pub const fn new(lease: Duration, retention: Duration) -> Self {
        Self { lease, retention }
    }

    /// The same terms with another lease.
    pub const fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// The same terms with another retention.
    pub const fn with_retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Refuses terms that are shorter than a millisecond or longer than the maximum.
    pub(crate) fn check(self) -> Result<Self, Error> {
        check_duration("lease", self.lease, MAX_LEASE)?;
        check_duration("retention", self.retention, MAX_RETENTION)?;
        Ok(self)
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self::new(DEFAULT_LEASE, DEFAULT_RETENTION)
    }
}

/// Refuses a setting that is shorter than a millisecond or longer than `most`.
///
/// # Errors
///
/// [`ErrorKind::InvalidConfig`], with the setting's name and its range.
pub fn check_duration(name: &str, value: Duration, most: Duration) -> Result<(), Error> {
    if value < Duration::from_millis(1) || value > most {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("{name} is {value:?}; it must lie between 1ms and {most:?}"),
        ));
    }
    Ok(())
}

/// Refuses a setting outside of the given range, whose ends belong to it.
///
/// # Errors
///
/// [`ErrorKind::InvalidConfig`], with the setting's name and its range.
pub fn check_number(name: &str, value: u64, least: u64, most: u64) -> Result<(), Error> {
    if value < least || value > most {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("{name} is {value}; it must lie between {least} and {most}"),
        ));
    }
    Ok(())
}
