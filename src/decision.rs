//! The heart: what a command does to a key's record.
//!
//! [`decide`] is a pure function, and every store runs it; no store has rules of its own. A record
//! that is over by time counts as none, whatever the command:
//!
//! | record | command | verdict | becomes |
//! |---|---|---|---|
//! | none | begin | `Proceed`, attempt 1, new token | in flight until now + lease |
//! | none, at a limit that leaves no room | begin | `Full` | – |
//! | in flight or completed, other fingerprint | begin | `Conflict`, whatever the lease | – |
//! | in flight, now < lease end | begin | `InFlight` | – |
//! | in flight, now ≥ lease end, `Rerun` | begin | `Proceed`, attempt + 1, new token | in flight until now + lease |
//! | in flight, now ≥ lease end, `Hold` | begin | `InFlight`, held | – |
//! | the same | begin that takes over its token | `Proceed`, attempt + 1, new token | in flight until now + lease |
//! | completed | begin | `Replay` | – |
//! | in flight, same token, lapsed or not | complete | `Done` | completed, expires at now + retention |
//! | completed, same token, same reply | complete | `Done`: a repeat after an unclear commit | – |
//! | in flight, same token, lapsed or not | renew | `Renewed` | lease end = now + lease |
//! | in flight, same token, attempt 1 | release | `Done` | none |
//! | in flight, same token, attempt > 1 | release | `Done` | in flight, lease over now, count kept |
//! | anything else | complete, renew, release | `LeaseLost`, says what holds the key | – |
//! | completed, or in flight with its lease over | forget | `Done` | none |
//! | in flight, lease running | forget | `Running` | – |
//! | none | forget | `Nothing` | – |
//! | in flight, lease over | resolve | `Done` | completed, or none |
//! | in flight, lease running | resolve | `Running` | – |
//! | completed, or none | resolve | `Nothing` | – |
//! | another token than expected | a command with a condition | `Running`: somebody was granted the key meanwhile | – |
//!
//! Over by time is a completed record from `expires_at` on, to the millisecond; and under `Rerun` an
//! attempt whose lease has been over for a retention, however long the two are.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::mutant::{self, Mutant};
use crate::outcome::{Conflict, InFlight, OnAbandon, Resolution};
use crate::record::{CompletedRecord, InFlightRecord, Record};
use crate::reply::Reply;
use crate::secret::SealedFingerprint;

/// What is asked of one key.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Begin {
        fingerprint: SealedFingerprint,
        lease: Duration,
        retention: Duration,
        /// The token of an attempt that is held, but is known to have had no effect.
        takes_over: Option<u64>,
    },
    Complete {
        token: u64,
        reply: Reply,
        retention: Duration,
    },
    Renew {
        token: u64,
        lease: Duration,
    },
    Release {
        token: u64,
    },
    Forget,
    Resolve(Resolution),
    /// Only if the record still has this token, or there still is none.
    If {
        token: Option<u64>,
        then: Box<Command>,
    },
}

/// What a decision depends on besides record and command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) now: Timestamp,
    /// The token of the grant, if one is made.
    pub(crate) next_token: u64,
    /// The limit that leaves no room for a new key, if one does.
    pub(crate) full: Option<Limit>,
    pub(crate) on_abandon: OnAbandon,
}

/// What new keys are refused at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    LiveKeys,
    LiveKeysPerScope,
    Disk,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Proceed(Grant),
    Replay(Reply),
    Conflict(Conflict),
    InFlight(InFlight),
    Full(Limit),
    Done,
    Renewed { lease_until: Timestamp },
    LeaseLost(Holder),
    Running,
    Nothing,
}

/// An attempt's right to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) token: u64,
    pub(crate) attempt: u32,
    pub(crate) lease_until: Timestamp,
}

/// What holds a key that a guard has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    Nobody,
    InFlight { attempt: u32 },
    Completed { attempt: u32 },
}

/// What becomes of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Put(Record),
    Remove,
}

/// A verdict, and the change that has to be durable before the verdict is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) verdict: Verdict,
    pub(crate) change: Option<Change>,
}

/// Applies one row of the table in this module's documentation.
pub(crate) fn decide(record: Option<&Record>, command: &Command, context: &Context) -> Decision {
    let record = record.filter(|record| !is_over(record, context.now, context.on_abandon));
    match command {
        Command::Begin {
            fingerprint,
            lease,
            retention,
            takes_over,
        } => {
            let terms = (*lease, *retention);
            begin(record, fingerprint, terms, *takes_over, context)
        }
        Command::Complete {
            token,
            reply,
            retention,
        } => complete(record, *token, reply, *retention, context.now),
        Command::Renew { token, lease } => renew(record, *token, *lease, context.now),
        Command::Release { token } => release(record, *token, context.now),
        Command::Forget => forget(record, context.now),
        Command::Resolve(resolution) => resolve(record, resolution, context.now),
        Command::If { token, then } => match record.map(Record::token) {
            Some(found) if Some(found) != *token => verdict(Verdict::Running),
            _ => decide(record, then, context),
        },
    }
}

/// Whether time alone has made the record 'none'.
pub(crate) fn is_over(record: &Record, now: Timestamp, on_abandon: OnAbandon) -> bool {
    let can_end = matches!(record, Record::Completed(_)) || on_abandon == OnAbandon::Rerun;
    can_end && now >= record.ends_at()
}

/// Whether an operator has to decide about the attempt.
pub(crate) fn is_held(record: &InFlightRecord, now: Timestamp, on_abandon: OnAbandon) -> bool {
    on_abandon == OnAbandon::Hold && now >= record.lease_until
}

fn begin(
    record: Option<&Record>,
    fingerprint: &SealedFingerprint,
    (lease, retention): (Duration, Duration),
    takes_over: Option<u64>,
    context: &Context,
) -> Decision {
    let now = context.now;
    let grant = |attempt| {
        let lease_until = now.plus(lease);
        let record = InFlightRecord {
            fingerprint: fingerprint.clone(),
            token: context.next_token,
            attempt,
            started_at: now,
            lease_until,
            retention,
        };
        let grant = Grant {
            token: context.next_token,
            attempt,
            lease_until,
        };
        change(Verdict::Proceed(grant), Record::InFlight(record))
    };
    match record {
        None => match context.full {
            Some(limit) => verdict(Verdict::Full(limit)),
            None => grant(1),
        },
        Some(record) if !record.fingerprint().matches(fingerprint) => {
            let part = record.fingerprint().differing_part(fingerprint);
            verdict(Verdict::Conflict(Conflict { part }))
        }
        Some(Record::Completed(completed)) => verdict(Verdict::Replay(completed.reply.clone())),
        Some(Record::InFlight(attempt)) => {
            let is_held = is_held(attempt, now, context.on_abandon);
            let may_go_on = !is_held || takes_over == Some(attempt.token);
            if now >= attempt.lease_until && may_go_on {
                return grant(attempt.attempt.saturating_add(1));
            }
            verdict(Verdict::InFlight(InFlight {
                attempt: attempt.attempt,
                started_at: attempt.started_at,
                lease_until: attempt.lease_until,
                is_held,
                now,
            }))
        }
    }
}

fn complete(
    record: Option<&Record>,
    token: u64,
    reply: &Reply,
    retention: Duration,
    now: Timestamp,
) -> Decision {
    match record {
        Some(Record::InFlight(attempt))
            if attempt.token == token || mutant::is_on(Mutant::AnyToken) =>
        {
            change(
                Verdict::Done,
                completed(attempt, reply.clone(), retention, now),
            )
        }
        Some(Record::Completed(done)) if done.token == token && done.reply == *reply => {
            verdict(Verdict::Done)
        }
        other => lease_lost(other),
    }
}

fn renew(record: Option<&Record>, token: u64, lease: Duration, now: Timestamp) -> Decision {
    match record {
        Some(Record::InFlight(attempt)) if attempt.token == token => {
            let lease_until = now.plus(lease);
            let renewed = InFlightRecord {
                lease_until,
                ..attempt.clone()
            };
            change(Verdict::Renewed { lease_until }, Record::InFlight(renewed))
        }
        other => lease_lost(other),
    }
}

fn release(record: Option<&Record>, token: u64, now: Timestamp) -> Decision {
    match record {
        Some(Record::InFlight(attempt)) if attempt.token == token && attempt.attempt == 1 => {
            removal()
        }
        // An earlier attempt may have had its effect, so the count must not start over.
        Some(Record::InFlight(attempt)) if attempt.token == token => {
            let ended = InFlightRecord {
                lease_until: now,
                ..attempt.clone()
            };
            change(Verdict::Done, Record::InFlight(ended))
        }
        other => lease_lost(other),
    }
}

fn forget(record: Option<&Record>, now: Timestamp) -> Decision {
    match record {
        None => verdict(Verdict::Nothing),
        Some(Record::InFlight(attempt)) if now < attempt.lease_until => verdict(Verdict::Running),
        Some(_) => removal(),
    }
}

fn resolve(record: Option<&Record>, resolution: &Resolution, now: Timestamp) -> Decision {
    match record {
        None | Some(Record::Completed(_)) => verdict(Verdict::Nothing),
        Some(Record::InFlight(attempt)) if now < attempt.lease_until => verdict(Verdict::Running),
        Some(Record::InFlight(attempt)) => match resolution {
            Resolution::Release => removal(),
            Resolution::Complete(reply) => change(
                Verdict::Done,
                completed(attempt, reply.clone(), attempt.retention, now),
            ),
        },
    }
}

fn completed(
    attempt: &InFlightRecord,
    reply: Reply,
    retention: Duration,
    now: Timestamp,
) -> Record {
    Record::Completed(CompletedRecord {
        fingerprint: attempt.fingerprint.clone(),
        token: attempt.token,
        attempt: attempt.attempt,
        completed_at: now,
        expires_at: now.plus(retention),
        reply,
    })
}

fn lease_lost(record: Option<&Record>) -> Decision {
    verdict(Verdict::LeaseLost(match record {
        None => Holder::Nobody,
        Some(Record::InFlight(record)) => Holder::InFlight {
            attempt: record.attempt,
        },
        Some(Record::Completed(record)) => Holder::Completed {
            attempt: record.attempt,
        },
    }))
}

fn verdict(verdict: Verdict) -> Decision {
    Decision {
        verdict,
        change: None,
    }
}

fn change(verdict: Verdict, record: Record) -> Decision {
    Decision {
        verdict,
        change: Some(Change::Put(record)),
    }
}

fn removal() -> Decision {
    Decision {
        verdict: Verdict::Done,
        change: Some(Change::Remove),
    }
}
