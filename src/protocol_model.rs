//! The decision in the small words of a model of the protocol: records, commands and verdicts, and
//! the way to the crate's own and back. The model is among the fault tests.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::decision::{self, Change, Command, Context, Verdict};
use crate::outcome::OnAbandon;
use crate::record::{CompletedRecord, InFlightRecord, Record};
use crate::reply::Reply;
use crate::secret::SealedFingerprint;

/// In milliseconds. One before a lease's end, its end and the end of the retention are all whole steps.
pub type Time = u64;
pub const LEASE: Time = 2;
pub const RETENTION: Time = 3;

/// A handler's answer says which attempt of which request made it, so that every mix-up shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Answer {
    pub token: u64,
    pub request: u8,
}

/// A record of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kept {
    InFlight {
        request: u8,
        token: u64,
        attempt: u32,
        started_at: Time,
        lease_until: Time,
    },
    Completed {
        request: u8,
        attempt: u32,
        token: u64,
        answer: Answer,
        completed_at: Time,
        expires_at: Time,
    },
}

/// What a caller asks of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ask {
    Begin(u8),
    Complete(Answer),
    Renew(u64),
    Release(u64),
    Forget,
}

/// What it is told. `ends` is when a promised answer is over, by the model's own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Said {
    Proceed {
        token: u64,
        attempt: u32,
        until: Time,
    },
    Replay {
        answer: Answer,
        ends: Time,
    },
    Done {
        ends: Time,
    },
    Renewed {
        until: Time,
    },
    Conflict,
    InFlight,
    Lost,
    Running,
    Nothing,
}

/// A key's record, and by the model's own count when its lease or its answer is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Row {
    pub kept: Option<Kept>,
    pub ends: Time,
}

/// What a decision makes of a row; `None` if it changes nothing.
pub type Changed = Option<Row>;

fn at(time: Time) -> Timestamp {
    Timestamp(time)
}

fn lasting(time: Time) -> Duration {
    Duration::from_millis(time)
}

fn fingerprint(request: u8) -> SealedFingerprint {
    SealedFingerprint {
        version: 1,
        whole: [request; 32],
        parts: None,
    }
}

impl Answer {
    fn reply(self) -> Reply {
        let token = u8::try_from(self.token).expect("few tokens");
        Reply::new(200, vec![token, self.request])
    }

    fn of(reply: &Reply) -> Self {
        let body = reply.body();
        Self {
            token: u64::from(body[0]),
            request: body[1],
        }
    }
}

impl Ask {
    fn command(self) -> Command {
        match self {
            Self::Begin(request) => Command::Begin {
                takes_over: None,
                fingerprint: fingerprint(request),
                lease: lasting(LEASE),
                retention: lasting(RETENTION),
            },
            Self::Complete(answer) => Command::Complete {
                token: answer.token,
                reply: answer.reply(),
                retention: lasting(RETENTION),
            },
            Self::Renew(token) => Command::Renew {
                token,
                lease: lasting(LEASE),
            },
            Self::Release(token) => Command::Release { token },
            Self::Forget => Command::Forget,
        }
    }

    /// The token that the caller shows.
    pub fn token(self) -> Option<u64> {
        match self {
            Self::Begin(_) | Self::Forget => None,
            Self::Complete(answer) => Some(answer.token),
            Self::Renew(token) | Self::Release(token) => Some(token),
        }
    }
}

impl Kept {
    fn record(self) -> Record {
        match self {
            Self::InFlight {
                request,
                token,
                attempt,
                started_at,
                lease_until,
            } => Record::InFlight(InFlightRecord {
                fingerprint: fingerprint(request),
                token,
                attempt,
                started_at: at(started_at),
                lease_until: at(lease_until),
                retention: lasting(RETENTION),
            }),
            Self::Completed {
                request,
                attempt,
                token,
                answer,
                completed_at,
                expires_at,
            } => Record::Completed(CompletedRecord {
                fingerprint: fingerprint(request),
                token,
                attempt,
                completed_at: at(completed_at),
                expires_at: at(expires_at),
                reply: answer.reply(),
            }),
        }
    }

    fn of(record: &Record) -> Self {
        match record {
            Record::InFlight(record) => Self::InFlight {
                request: record.fingerprint.whole[0],
                token: record.token,
                attempt: record.attempt,
                started_at: record.started_at.0,
                lease_until: record.lease_until.0,
            },
            Record::Completed(record) => Self::Completed {
                request: record.fingerprint.whole[0],
                attempt: record.attempt,
                token: record.token,
                answer: Answer::of(&record.reply),
                completed_at: record.completed_at.0,
                expires_at: record.expires_at.0,
            },
        }
    }

    pub fn token(self) -> u64 {
        match self {
            Self::InFlight { token, .. } | Self::Completed { token, .. } => token,
        }
    }
}

impl Row {
    /// Runs the crate's own decision.
    pub fn decide(&self, ask: Ask, now: Time, next_token: u64) -> (Said, Changed) {
        let record = self.kept.map(Kept::record);
        let context = Context {
            now: at(now),
            next_token,
            full: None,
            on_abandon: OnAbandon::Rerun,
        };
        let decision = decision::decide(record.as_ref(), &ask.command(), &context);
        let changed = decision.change.map(|change| match change {
            Change::Remove => Self::default(),
            Change::Put(record) => Self {
                kept: Some(Kept::of(&record)),
                ends: match ask {
                    Ask::Begin(_) | Ask::Renew(_) => now + LEASE,
                    Ask::Complete(_) => now + RETENTION,
                    Ask::Release(_) | Ask::Forget => now,
                },
            },
        });
        let ends = changed.map_or(self.ends, |row| row.ends);
        (Said::of(&decision.verdict, ends), changed)
    }

    /// Whether a sweep may drop the record.
    pub fn is_over(&self, now: Time) -> bool {
        self.kept
            .is_some_and(|kept| decision::is_over(&kept.record(), at(now), OnAbandon::Rerun))
    }
}

impl Said {
    fn of(verdict: &Verdict, ends: Time) -> Self {
        match verdict {
            Verdict::Proceed(grant) => Self::Proceed {
                token: grant.token,
                attempt: grant.attempt,
                until: grant.lease_until.0,
            },
            Verdict::Replay(reply) => Self::Replay {
                answer: Answer::of(reply),
                ends,
            },
            Verdict::Done => Self::Done { ends },
            Verdict::Renewed { lease_until } => Self::Renewed {
                until: lease_until.0,
            },
            Verdict::Conflict(_) => Self::Conflict,
            Verdict::InFlight(_) => Self::InFlight,
            Verdict::LeaseLost(_) => Self::Lost,
            Verdict::Running => Self::Running,
            Verdict::Nothing => Self::Nothing,
            Verdict::Full(_) => unreachable!("there is no limit here"),
        }
    }
}
