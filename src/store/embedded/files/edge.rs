//! The edge to redb: its panics and its errors end here.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Runs calls of redb's on behalf of `what`, which the message of an error names.
///
/// redb may panic on a damaged file. The panic is caught and reported as damage, so that it ends
/// neither the process nor a thread; that takes `panic = "unwind"`.
pub(in crate::store::embedded) fn redb_call<T>(
    what: &str,
    call: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| from_redb(what, error)),
        Err(_panic) => Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "{what} is damaged in a way that redb can't describe; restore it from a backup"
            ),
        )),
    }
}

/// The edge to redb at one file, which is no good any more once the system has refused something: redb answers
/// nothing from it until it is opened anew.
#[derive(Debug, Default)]
pub(in crate::store::embedded) struct Edge {
    is_stale: AtomicBool,
}

impl Edge {
    pub(in crate::store::embedded) fn call<T>(
        &self,
        what: &str,
        call: impl FnOnce() -> Result<T, redb::Error>,
    ) -> Result<T> {
        redb_call(what, call).inspect_err(|error| {
            if error.kind() == ErrorKind::Io {
                self.is_stale.store(true, Ordering::Relaxed);
            }
        })
    }

    pub(in crate::store::embedded) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }
}

/// A database that may be dropped anywhere: redb may panic at that, too, on a damaged file.
pub(in crate::store::embedded) struct Owned<T>(Option<T>);

impl<T> Owned<T> {
    pub(in crate::store::embedded) fn new(database: T) -> Self {
        Self(Some(database))
    }

    pub(in crate::store::embedded) fn into_inner(mut self) -> T {
        self.0.take().expect("it is taken once")
    }
}

impl<T> Deref for Owned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until it is taken")
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        let database = self.0.take();
        // What the drop would have written isn't needed; a close says what stood in its way.
        let _panicked = catch_unwind(AssertUnwindSafe(|| drop(database)));
    }
}

fn from_redb(what: &str, error: redb::Error) -> Error {
    use std::io::ErrorKind as Io;
    let (kind, advice) = match &error {
        redb::Error::DatabaseAlreadyOpen => (ErrorKind::Locked, "is open elsewhere"),
        redb::Error::UpgradeRequired(_) => (
            ErrorKind::UnsupportedFormat,
            "has a file format that this version doesn't read",
        ),
        redb::Error::Io(io) if matches!(io.kind(), Io::InvalidData | Io::UnexpectedEof) => (
            ErrorKind::Corrupt,
            "is damaged or no redb file; restore it from a backup",
        ),
        redb::Error::Io(io) if io.kind() == Io::NotFound => {
            (ErrorKind::Corrupt, "is missing; restore it from a backup")
        }
        // Only what was closed cleanly is opened read-only.
        redb::Error::RepairAborted => (
            ErrorKind::Corrupt,
            "is damaged or cut short; restore it from a backup",
        ),
        redb::Error::Corrupted(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TypeDefinitionChanged { .. } => (
            ErrorKind::Corrupt,
            "is damaged or not of this engine; restore it from a backup",
        ),
        _ => (ErrorKind::Io, "couldn't be read or written"),
    };
    Error::with_source(kind, format!("{what} {advice}"), error)
}

/// An error's message and those of its causes that it doesn't tell of by itself.
pub(in crate::store::embedded) fn with_causes(error: &Error) -> String {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let told = error.to_string();
        if !message.ends_with(&told) {
            message = format!("{message}: {told}");
        }
        cause = error.source();
    }
    message
}

/// Wraps an error of the operating system.
pub(in crate::store::embedded) fn io_error(
    what: impl std::fmt::Display,
    error: std::io::Error,
) -> Error {
    Error::with_source(ErrorKind::Io, format!("{what}: {error}"), error)
}
