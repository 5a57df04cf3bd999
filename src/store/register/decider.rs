//! Commands on a register: decided here, changed there.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};

use super::asked::Asked;
use super::asking::Made;
use super::first_cell::FirstCell;
use super::news::News;
use super::reach::Reach;
use super::record::{Held, New};
use super::replies::Replies;
use super::room::Room;
use super::server_time::ServerTime;
use super::versions::Versions;
use super::{Register, Value, Version};
use crate::clock::{Backoff, Timestamp};
use crate::decision::{self, Change, Command, Context, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::observe::Meters;
use crate::record::Stored;
use crate::secret::{Digest, Secret};
use crate::store::{Observer, Request, Rules};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};
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
    /// Held by whoever looks at the first cell.
    pub(super) looking: tokio::sync::Mutex<()>,
    /// How many grants are being given back that reached nobody.
    pub(super) disowning: AtomicUsize,
    pub(super) meters: Meters,
    pub(super) room: Room,
}

#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) value: Value,
    pub(super) token: u64,
    pub(super) lease_until: Timestamp,
}

/// What a decision is made against.
pub(super) struct View {
    pub(super) value: Option<Value>,
    pub(super) now: Timestamp,
    /// Nobody has asked the server.
    pub(super) is_assumed: bool,
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
        let result = result.unwrap_or_else(|_| Err(asked.late()));
        let result = result.map_err(|error| asked.told(error));
        // That nothing is granted for a while says nothing of the server.
        let result = if asked.is_held_back.load(Ordering::Relaxed) {
            result
        } else {
            self.noted(result)
        };
        if result.is_err() {
            // It may have been changed, and nobody here knows to what.
            self.own.lock().remove(&request.digest);
            let unowned = asked.unowned.lock().take();
            if let Some(unowned) = unowned {
                self.disown_later(unowned);
            }
        }
        if forgets(&request.command) {
            // What a begin has read before must not be kept after.
            self.replies.forget(&request.digest);
        }
        result
    }

    /// What is done with a guard is tried again until the time is up: an answer must not be lost to
    /// what passes.
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
        self.may_hand_out(asked, &verdict).await?;
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
                if let Some(value) = asked.found_made(&decision.verdict, &view) {
                    let again = self.written_over_itself(digest, value, &asked.doubt);
                    if let Some(found) = Box::pin(again).await? {
                        view = found;
                        continue;
                    }
                }
                let seen = held.and_then(|held| held.stored);
                self.keep_reply(seen, asked.since, view.now);
                return Ok((decision.verdict, Duration::ZERO));
            };
            if let Err(error) = self.may_grant(asked, &decision.verdict).await {
                if !view.is_assumed {
                    return Err(error);
                }
                // What was assumed to be a new key may be known.
                view = self.load(digest).await?;
                continue;
            }
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

pub(super) fn timed_out() -> Error {
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
