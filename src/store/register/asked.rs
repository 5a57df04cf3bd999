//! One command, on its way to the register and back.

use super::asking::Doubt;
use super::decider::timed_out;
use super::disown::Unowned;
use super::record::New;
use super::replies::Since;
use super::{Register, Version};
use crate::decision::{Command, Verdict};
use crate::error::Error;
use crate::key::Key;
use crate::secret::Digest;
use crate::store::Request;
use crate::store::register::decider::Decider;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// A command, and how far it has got.
pub(super) struct Asked<'a> {
    pub(super) key: &'a Key,
    pub(super) digest: Digest,
    pub(super) command: &'a Command,
    pub(super) since: Since,
    pub(super) doubt: Doubt,
    /// A grant that was asked for and isn't handed out.
    pub(super) unowned: Mutex<Option<Unowned>>,
    /// Whether nothing is granted at the moment, whatever the server says.
    pub(super) is_held_back: AtomicBool,
    /// What the last try of several came to.
    pub(super) refusal: Mutex<Option<Error>>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(request: &'a Request, since: Since) -> Self {
        Self::with(&request.key, request.digest, &request.command, since)
    }

    /// Of another command about the same key.
    pub(super) fn other(&self, command: &'a Command) -> Self {
        Self::with(self.key, self.digest, command, self.since)
    }

    fn with(key: &'a Key, digest: Digest, command: &'a Command, since: Since) -> Self {
        Self {
            key,
            digest,
            command,
            since,
            doubt: Doubt::default(),
            unowned: Mutex::default(),
            is_held_back: AtomicBool::new(false),
            refusal: Mutex::default(),
        }
    }

    /// Whether it is done with a guard: then it is tried for as long as there is time.
    pub(super) fn is_of_guard(&self) -> bool {
        matches!(
            self.command,
            Command::Complete { .. } | Command::Renew { .. } | Command::Release { .. }
        )
    }

    /// The error where the time is up: the last refusal, or that nobody has said anything.
    pub(super) fn late(&self) -> Error {
        let refusal = self.refusal.lock().take();
        let last = refusal.or_else(|| self.doubt.last());
        last.unwrap_or_else(timed_out)
    }

    /// Says of an error whether the change may have been made all the same.
    pub(super) fn told(&self, error: Error) -> Error {
        if self.doubt.is_on() || self.unowned.lock().is_some() {
            return error.of_unknown_outcome();
        }
        error
    }

    pub(super) fn held_back(&self, error: Error) -> Error {
        self.is_held_back.store(true, Ordering::Relaxed);
        error
    }
}

impl Asked<'_> {
    /// A change that was refused needn't be looked after.
    pub(super) fn forget_unless_unknown(&self, error: &Error) {
        if !error.is_outcome_unknown() {
            self.unowned.lock().take();
        }
    }
}

impl<R: Register> Decider<R> {
    /// Notes a grant that is about to be asked for, until somebody has it.
    pub(super) fn note_unowned(
        &self,
        asked: &Asked<'_>,
        (expected, new): (Option<Version>, &New),
        verdict: &Verdict,
    ) {
        if let (Verdict::Proceed(grant), Command::Begin { lease, .. }) = (verdict, asked.command) {
            *asked.unowned.lock() = Some(Unowned {
                key: asked.key.clone(),
                digest: asked.digest,
                expected,
                new: new.clone(),
                token: grant.token,
                lease: *lease,
                until: self.time.asking().plus(*lease),
            });
        }
    }
}
