//! Commands on a register: decided here, changed there.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::asking::Made;
use super::late::has_slept;
use super::news::News;
use super::reach::Reach;
use super::record::{Held, New};
use super::replies::{Replies, Since};
use super::room::Room;
use super::server_time::ServerTime;
use super::versions::Versions;
use super::{Register, Value, Version};
use crate::clock::Timestamp;
use crate::decision::{self, Change, Command, Context, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::record::Stored;
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

impl<R: Register> Decider<R> {
    /// Decides against what the register has, and changes it.
    pub(super) async fn carry_out(self: &Arc<Self>, request: Request) -> Result<Verdict> {
        let _room = self.room.take(&request.command).await?;
        if matches!(request.command, Command::Begin { .. }) && self.running.is_closed() {
            return Err(Error::closed());
        }
        let digest = request.digest;
        let forgets = forgets(&request.command);
        // Not by `in_time`, since an async function that is given a future holds it twice: this is the hot path.
        let result = timeout(self.register.timeout(), self.carry_out_now(request)).await;
        let result = self.noted(timely(result));
        if result.is_err() {
            // It may have been changed, and nobody here knows to what.
            self.own.lock().remove(&digest);
        }
        if forgets {
            // What a begin has read before must not be kept after.
            self.replies.forget(&digest);
        }
        result
    }

    async fn carry_out_now(&self, request: Request) -> Result<Verdict> {
        let Request {
            key,
            digest,
            command,
            ..
        } = request;
        let since = self.replies.since();
        let view = self.first_view(&digest, &command).await?;
        let settled = self.settle(&key, digest, &command, view, since).await?;
        if settled.1.is_zero() {
            return Ok(settled.0);
        }
        Box::pin(self.make_up(&key, digest, &command, settled, since)).await
    }

    /// Gives the verdict, and by how much the server's time was past the one that it was made by.
    pub(super) async fn settle(
        &self,
        key: &Key,
        digest: Digest,
        command: &Command,
        mut view: View,
        since: Since,
    ) -> Result<(Verdict, Duration)> {
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
                let seen = held.and_then(|held| held.stored);
                self.keep_reply(seen, since, view.now);
                return Ok((decision.verdict, Duration::ZERO));
            };
            let version = self.versions.next();
            let mut stored = self.stored(change, digest, key);
            let observed = Observed::of(stored.as_ref().map(|stored| &stored.record));
            let new = self.value_of(stored.as_ref(), digest, &view, last_token, version)?;
            let expected = view.value.as_ref().map(|value| value.version);
            match self.swap(digest, expected, &new).await? {
                Made::Done { asked_at } => {
                    let late = if view.is_assumed {
                        asked_at.since(view.now)
                    } else {
                        Duration::ZERO
                    };
                    if let (Command::Complete { retention, .. }, Some(completed)) =
                        (command, &stored)
                        && has_slept(late, *retention)
                    {
                        let again = self.write_later(completed.clone(), version, &view, late);
                        match Box::pin(again).await? {
                            Ok(completed) => stored = Some(completed),
                            Err(found) => {
                                view = found;
                                continue;
                            }
                        }
                    }
                    self.note_own(digest, new.value, &decision.verdict);
                    self.keep_reply(stored, since, view.now);
                    self.observer.changed(&digest, observed);
                    self.news.tell(digest, observed);
                    return Ok((decision.verdict, late));
                }
                Made::Not(found) => view = found,
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
    result.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Unavailable,
            "the store's server didn't answer in time: a change may have been made, or may still be; the same call can be \
             made again",
        ))
    })
}

pub(super) fn contended() -> Error {
    Error::new(
        ErrorKind::Overloaded,
        "others changed the key each time that it was tried to; retry later",
    )
}
