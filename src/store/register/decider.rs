//! Commands on a register: decided here, changed there.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};

use super::asking::{Doubt, Made};
use super::disown::Unowned;
use super::first_cell::FirstCell;
use super::late::has_slept;
use super::news::News;
use super::reach::Reach;
use super::record::{Held, New};
use super::replies::{Replies, Since};
use super::room::Room;
use super::server_time::ServerTime;
use super::versions::Versions;
use super::{Register, Value, Version};
use crate::clock::{Backoff, Timestamp};
use crate::decision::{self, Change, Command, Context, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::observe::Meters;
use crate::record::{Record, Stored};
use crate::secret::{Digest, Secret};
use crate::store::{Observed, Observer, Request, Rules};
use crate::sync::Mutex;
use crate::sync::running::Running;

/// How often a command is decided anew because others have changed the key meanwhile. Each time somebody got on.
const MOST_DECISIONS: usize = 64;

/// What all commands share.
pub(super) struct Decider<R> {
    pub(super) register: R,
    pub(super) secret: Secret,
    pub(super) rules: Rules,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) time: ServerTime,
    /// The attempts that were granted here, as they were written: what is done with a guard takes one round trip.
    pub(super) own: Mutex<HashMap<Digest, Own>>,
    pub(super) versions: Versions,
    pub(super) replies: Replies,
    pub(super) news: News,
    pub(super) running: Arc<Running>,
    pub(super) reach: Reach,
    pub(super) first: FirstCell,
    pub(super) meters: Meters,
    pub(super) room: Room,
}

#[derive(Clone, Debug)]
pub(super) struct Own {
    value: Value,
    token: u64,
    lease_until: Timestamp,
}

/// What a decision is made against.
pub(super) struct View {
    pub(super) value: Option<Value>,
    pub(super) now: Timestamp,
    /// Nobody has asked the server.
    pub(super) is_assumed: bool,
}

/// A command, and how far it has got.
pub(super) struct Asked<'a> {
    pub(super) key: &'a Key,
    pub(super) digest: Digest,
    pub(super) command: &'a Command,
    pub(super) since: Since,
    pub(super) doubt: Doubt,
    /// A grant that was asked for and isn't handed out.
    unowned: Mutex<Option<Unowned>>,
    /// What the last try of several came to.
    refusal: Mutex<Option<Error>>,
}

impl<'a> Asked<'a> {
    fn new(request: &'a Request, since: Since) -> Self {
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
            refusal: Mutex::default(),
        }
    }

    /// Whether it is done with a guard: then it is tried for as long as there is time.
    fn is_of_guard(&self) -> bool {
        matches!(
            self.command,
            Command::Complete { .. } | Command::Renew { .. } | Command::Release { .. }
        )
    }

    /// The error where the time is up.
    fn late(&self) -> Error {
        let refusal = self.refusal.lock().take();
        match refusal {
            Some(refusal) if !self.doubt.is_on() => refusal,
            _ if self.doubt.is_on() => timed_out().of_unknown_outcome(),
            _ => timed_out(),
        }
    }
}

impl Asked<'_> {
    /// A change that was refused needn't be looked after.
    fn forget_unless_unknown(&self, error: &Error) {
        if !error.is_outcome_unknown() {
            self.unowned.lock().take();
        }
    }
}

impl<R: Register> Decider<R> {
    /// Decides against what the register has, and changes it.
    pub(super) async fn carry_out(self: &Arc<Self>, request: Request) -> Result<Verdict> {
        let _room = self.room.take(&request.command).await?;
        if matches!(request.command, Command::Begin { .. }) && self.running.is_closed() {
            return Err(Error::closed());
        }
        let asked = Asked::new(&request, self.replies.since());
        // Not by `in_time`, since an async function that is given a future holds it twice: this is the hot path.
        let result = timeout(self.register.timeout(), self.persistently(&asked)).await;
        let result = self.noted(result.unwrap_or_else(|_| Err(asked.late())));
        if result.is_err() {
            // It may have been changed, and nobody here knows to what.
            self.own.lock().remove(&request.digest);
            let unowned = asked.unowned.lock().take();
            if let Some(unowned) = unowned {
                tokio::spawn(Arc::clone(self).disown(unowned));
            }
        }
        if forgets(&request.command) {
            // What a begin has read before must not be kept after.
            self.replies.forget(&request.digest);
        }
        result
    }

    /// What is done with a guard is tried again until the time is up: an answer must not be lost to what passes.
    async fn persistently(&self, asked: &Asked<'_>) -> Result<Verdict> {
        let mut backoff = None;
        loop {
            let error = match self.carry_out_now(asked).await {
                Err(error) if asked.is_of_guard() && error.is_transient() => error,
                done => return done,
            };
            *asked.refusal.lock() = Some(error);
            let backoff = backoff.get_or_insert_with(|| {
                let timeout = self.register.timeout();
                Backoff::new(timeout / 128, timeout / 8)
            });
            sleep(backoff.pause()).await;
        }
    }

    async fn carry_out_now(&self, asked: &Asked<'_>) -> Result<Verdict> {
        let view = self.first_view(&asked.digest, asked.command).await?;
        let settled = self.settle(asked, view).await?;
        let verdict = if settled.1.is_zero() {
            settled.0
        } else {
            Box::pin(self.make_up(asked, settled)).await?
        };
        self.may_hand_out(&verdict).await?;
        Ok(verdict)
    }

    /// Gives the verdict, and by how much the server's time was past the one that it was made by.
    pub(super) async fn settle(
        &self,
        asked: &Asked<'_>,
        mut view: View,
    ) -> Result<(Verdict, Duration)> {
        let Asked {
            digest, command, ..
        } = *asked;
        for _ in 0..MOST_DECISIONS {
            let held = view.value.as_ref().map(|value| Held::of(value, &digest));
            let held = held.transpose()?;
            let last_token = held.as_ref().map_or(0, |held| held.token);
            let context = self.context(&view, last_token);
            let record = held.as_ref().and_then(Held::record);
            let decision = decision::decide(record, command, &context);
            let Some(change) = decision.change else {
                if view.is_assumed {
                    view = self.load(digest).await?;
                    continue;
                }
                if let Some(found) =
                    Box::pin(self.made_durable(asked, &decision.verdict, &view)).await?
                {
                    view = found;
                    continue;
                }
                let seen = held.and_then(|held| held.stored);
                self.keep_reply(seen, asked.since, view.now);
                return Ok((decision.verdict, Duration::ZERO));
            };
            self.may_grant(&decision.verdict, command).await?;
            let version = self.versions.next();
            let stored = self.stored(change, digest, asked.key);
            let new = self.value_of(stored.as_ref(), digest, &view, last_token, version)?;
            let expected = view.value.as_ref().map(|value| value.version);
            self.note_unowned(asked, (expected, &new), &decision.verdict);
            let made = self.swap(digest, expected, &new, &asked.doubt).await;
            match made.inspect_err(|error| asked.forget_unless_unknown(error))? {
                Made::Done { asked_at } => {
                    let late = if view.is_assumed {
                        asked_at.since(view.now)
                    } else {
                        Duration::ZERO
                    };
                    match self
                        .took(asked, (stored, new), &decision.verdict, (&view, late))
                        .await?
                    {
                        None => return Ok((decision.verdict, late)),
                        Some(found) => view = found,
                    }
                }
                Made::Not(found) => {
                    asked.unowned.lock().take();
                    view = found;
                }
            }
        }
        Err(contended())
    }

    /// Notes what was changed, and tells who has to know. Gives what is there instead, if it had to be written once more and isn't there
    /// any more.
    async fn took(
        &self,
        asked: &Asked<'_>,
        (mut stored, new): (Option<Stored>, New),
        verdict: &Verdict,
        (view, late): (&View, Duration),
    ) -> Result<Option<View>> {
        let version = new.value.version;
        if let (Command::Complete { retention, .. }, Some(completed)) = (asked.command, &stored)
            && has_slept(late, *retention)
        {
            let again = self.write_later(asked, completed.clone(), version, (view, late));
            match Box::pin(again).await? {
                Ok(completed) => stored = Some(completed),
                Err(found) => return Ok(Some(found)),
            }
        }
        let observed = Observed::of(stored.as_ref().map(|stored| &stored.record));
        self.note_own(asked.digest, new.value, verdict);
        self.keep_reply(stored, asked.since, view.now);
        self.observer.changed(&asked.digest, self.here(observed));
        self.news.tell(asked.digest, observed);
        Ok(None)
    }

    /// The same on the engine's time line.
    fn here(&self, observed: Observed) -> Observed {
        match observed {
            Observed::InFlight { lease_until } => Observed::InFlight {
                lease_until: self.time.local(lease_until),
            },
            other => other,
        }
    }

    /// Writes a completion over itself that is found made: whoever made it may have been told that its outcome is unknown, because
    /// it isn't replicated, say. Gives what is there instead, if something is.
    async fn made_durable(
        &self,
        asked: &Asked<'_>,
        verdict: &Verdict,
        view: &View,
    ) -> Result<Option<View>> {
        let (Verdict::Done, Command::Complete { .. }, Some(value)) =
            (verdict, asked.command, &view.value)
        else {
            return Ok(None);
        };
        self.written_over_itself(asked.digest, value, &asked.doubt)
            .await
    }

    /// Gives what is there instead, if something is.
    pub(super) async fn written_over_itself(
        &self,
        digest: Digest,
        value: &Value,
        doubt: &Doubt,
    ) -> Result<Option<View>> {
        let held = Held::of(value, &digest)?;
        let same = New {
            value: value.clone(),
            ends_at: held.record().map_or(Timestamp::NEVER, Record::ends_at),
        };
        match self.swap(digest, Some(value.version), &same, doubt).await? {
            Made::Done { .. } => Ok(None),
            Made::Not(found) => Ok(Some(found)),
        }
    }

    fn note_unowned(
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

    /// What is likely so: a key that is begun is free, and an attempt that was granted here is as it was left.
    pub(super) async fn first_view(&self, digest: &Digest, command: &Command) -> Result<View> {
        let token = match command {
            Command::Begin { .. } => {
                return Ok(View {
                    value: None,
                    now: self.time.latest(),
                    is_assumed: true,
                });
            }
            Command::Complete { token, .. }
            | Command::Renew { token, .. }
            | Command::Release { token } => Some(*token),
            Command::Forget | Command::Resolve(_) | Command::If { .. } => None,
        };
        let own = self.own.lock().get(digest).cloned();
        let now = match command {
            // Who begins the key next finds it free, by the server's own time.
            Command::Release { .. } => self.time.earliest(),
            _ => self.time.latest(),
        };
        match own.filter(|own| Some(own.token) == token) {
            Some(own) => Ok(View {
                value: Some(own.value),
                now,
                is_assumed: true,
            }),
            None => self.load(*digest).await,
        }
    }

    pub(super) fn context(&self, view: &View, last_token: u64) -> Context {
        Context {
            now: view.now,
            next_token: self.versions.token_after(last_token, view.now),
            full: None,
            on_abandon: self.rules.on_abandon,
        }
    }

    /// What is to be there; `None` if the key is freed.
    pub(super) fn stored(&self, change: Change, digest: Digest, key: &Key) -> Option<Stored> {
        match change {
            Change::Remove => None,
            Change::Put(record) => Some(Stored {
                digest,
                key: self.rules.keeps_keys.then(|| key.clone()),
                record,
            }),
        }
    }

    pub(super) fn value_of(
        &self,
        stored: Option<&Stored>,
        digest: Digest,
        view: &View,
        last_token: u64,
        version: Version,
    ) -> Result<New> {
        match stored {
            None => New::freed(digest, last_token, version, view.now),
            Some(stored) => New::put(stored, version, view.now, self.rules.on_abandon),
        }
    }

    fn keep_reply(&self, stored: Option<Stored>, since: Since, now: Timestamp) {
        if let Some(stored) = stored {
            self.replies.keep(stored, since, now);
        }
    }

    fn note_own(&self, digest: Digest, value: Value, verdict: &Verdict) {
        let mut own = self.own.lock();
        match verdict {
            Verdict::Proceed(grant) => {
                let granted = Own {
                    value,
                    token: grant.token,
                    lease_until: grant.lease_until,
                };
                own.insert(digest, granted);
            }
            Verdict::Renewed { lease_until } => {
                if let Some(own) = own.get_mut(&digest) {
                    own.value = value;
                    own.lease_until = *lease_until;
                }
            }
            _ => drop(own.remove(&digest)),
        }
    }

    /// Lets go of attempts whose lease is over. What is done with their guards takes a round trip more.
    pub(super) fn prune_own(&self) {
        let now = self.time.latest();
        self.own.lock().retain(|_, own| own.lease_until > now);
    }

    /// What the register has of a key, unless it is over.
    pub(super) async fn live(&self, digest: Digest) -> Result<Option<Stored>> {
        let view = self.load(digest).await?;
        let held = view
            .value
            .map(|value| Held::of(&value, &digest))
            .transpose()?;
        let stored = held.and_then(|held| held.stored);
        Ok(stored.filter(|stored| self.is_live(stored, view.now)))
    }

    pub(super) fn is_live(&self, stored: &Stored, now: Timestamp) -> bool {
        !decision::is_over(&stored.record, now, self.rules.on_abandon)
    }
}

fn forgets(command: &Command) -> bool {
    match command {
        Command::If { then, .. } => forgets(then),
        command => matches!(command, Command::Forget),
    }
}

/// Gives up what takes longer than a register's calls may.
pub(super) async fn in_time<R: Register, T>(
    register: &R,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    timely(timeout(register.timeout(), work).await)
}

fn timely<T>(result: Result<Result<T>, Elapsed>) -> Result<T> {
    result.unwrap_or_else(|_| Err(timed_out()))
}

fn timed_out() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the store's server didn't answer in time; the same call can be made again",
    )
}

pub(super) fn contended() -> Error {
    Error::new(
        ErrorKind::Overloaded,
        "others changed the key each time that it was tried to; retry later",
    )
}
