//! One key's life by the state table alone, written apart from the engine's own decision.

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970, or longer units since some moment.
pub(super) type Time = u64;

pub(super) const LEASE: Time = 100;
pub(super) const RETENTION: Time = 300;

/// What somebody did to one key, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Op {
    Begin {
        request: u8,
        found: Begun,
    },
    Complete {
        token: u64,
        body: u64,
        is_done: bool,
    },
    /// With the new end of the lease, unless it was lost.
    Renew {
        token: u64,
        until: Option<Time>,
    },
    Release {
        token: u64,
        is_done: bool,
    },
    Forget(Forgot),
    Lookup(Record),
}

impl Op {
    /// Whether an operation that went so has changed nothing, whatever the state was.
    pub(super) fn changes_nothing(&self) -> bool {
        match self {
            Self::Begin { found, .. } => !matches!(found, Begun::Proceed { .. }),
            Self::Complete { is_done, .. } | Self::Release { is_done, .. } => !is_done,
            Self::Renew { until, .. } => until.is_none(),
            Self::Forget(forgot) => *forgot != Forgot::Something,
            Self::Lookup(_) => true,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Begun {
    Proceed {
        token: u64,
        attempt: u32,
        until: Time,
    },
    Replay {
        body: u64,
    },
    Conflict,
    /// What is left of the lease is only noted where the clock stood still.
    InFlight {
        attempt: u32,
        left: Option<Time>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Forgot {
    Something,
    Nothing,
    Refused,
}

/// A record without the request that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Record {
    Absent,
    InFlight {
        token: u64,
        attempt: u32,
        started_at: Time,
        lease_until: Time,
    },
    Completed {
        token: u64,
        attempt: u32,
        completed_at: Time,
        expires_at: Time,
        body: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    last_token: u64,
    request: u8,
    record: Record,
    /// Decisions that change something are made one after the other, and time doesn't go back between them.
    changed_at: Time,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            last_token: 0,
            request: 0,
            record: Record::Absent,
            changed_at: 0,
        }
    }

    /// The state after the operation, if it could have gone so at that time.
    pub(super) fn after(&self, op: &Op, now: Time) -> Option<Self> {
        let found = if self.is_over(now) {
            self.with(Record::Absent)
        } else {
            *self
        };
        let after = found.decided(op, now)?;
        if after == found {
            return Some(*self);
        }
        let changed_at = now;
        (now >= self.changed_at).then_some(Self {
            changed_at,
            ..after
        })
    }

    fn decided(&self, op: &Op, now: Time) -> Option<Self> {
        match op {
            Op::Begin { request, found } => self.begin(*request, found, now),
            Op::Complete {
                token,
                body,
                is_done,
            } => self.complete(*token, *body, *is_done, now),
            Op::Renew { token, until } => self.renew(*token, *until, now),
            Op::Release { token, is_done } => self.release(*token, *is_done, now),
            Op::Forget(forgot) => self.forget(*forgot, now),
            Op::Lookup(record) => (*record == self.record).then_some(*self),
        }
    }

    fn with(&self, record: Record) -> Self {
        // Nothing is remembered of an absent key but that its tokens rise.
        let request = if record == Record::Absent {
            0
        } else {
            self.request
        };
        Self {
            request,
            record,
            ..*self
        }
    }

    fn is_over(&self, now: Time) -> bool {
        match self.record {
            Record::Absent => false,
            Record::InFlight { lease_until, .. } => now >= lease_until + RETENTION,
            Record::Completed { expires_at, .. } => now >= expires_at,
        }
    }

    fn begin(&self, request: u8, found: &Begun, now: Time) -> Option<Self> {
        let is_other = self.record != Record::Absent && self.request != request;
        if is_other {
            return (*found == Begun::Conflict).then_some(*self);
        }
        let next_attempt = match self.record {
            Record::Absent => 1,
            Record::Completed { body, .. } => {
                return (*found == Begun::Replay { body }).then_some(*self);
            }
            Record::InFlight {
                attempt,
                lease_until,
                ..
            } if now < lease_until => {
                let Begun::InFlight {
                    attempt: found,
                    left,
                } = *found
                else {
                    return None;
                };
                let is_right = left.is_none_or(|left| left == lease_until - now);
                return (found == attempt && is_right).then_some(*self);
            }
            Record::InFlight { attempt, .. } => attempt + 1,
        };
        let Begun::Proceed {
            token,
            attempt,
            until,
        } = *found
        else {
            return None;
        };
        let is_right = token > self.last_token && attempt == next_attempt && until == now + LEASE;
        let record = Record::InFlight {
            token,
            attempt,
            started_at: now,
            lease_until: until,
        };
        is_right.then_some(Self {
            last_token: token,
            request,
            record,
            ..*self
        })
    }

    /// The running or lapsed attempt, if the token is its own.
    fn own_attempt(&self, mine: u64) -> Option<(u32, Time)> {
        match self.record {
            Record::InFlight {
                token,
                attempt,
                started_at,
                ..
            } if token == mine => Some((attempt, started_at)),
            _ => None,
        }
    }

    fn complete(&self, mine: u64, mine_body: u64, is_done: bool, now: Time) -> Option<Self> {
        if let Some((attempt, _)) = self.own_attempt(mine) {
            return is_done.then(|| {
                self.with(Record::Completed {
                    token: mine,
                    attempt,
                    completed_at: now,
                    expires_at: now + RETENTION,
                    body: mine_body,
                })
            });
        }
        let is_repeat = matches!(self.record, Record::Completed { token, body, .. }
            if token == mine && body == mine_body);
        (is_done == is_repeat).then_some(*self)
    }

    fn renew(&self, mine: u64, until: Option<Time>, now: Time) -> Option<Self> {
        let Some((attempt, started_at)) = self.own_attempt(mine) else {
            return until.is_none().then_some(*self);
        };
        let lease_until = now + LEASE;
        (until == Some(lease_until)).then(|| {
            self.with(Record::InFlight {
                token: mine,
                attempt,
                started_at,
                lease_until,
            })
        })
    }

    fn release(&self, mine: u64, is_done: bool, now: Time) -> Option<Self> {
        let Some((attempt, started_at)) = self.own_attempt(mine) else {
            return (!is_done).then_some(*self);
        };
        let released = if attempt == 1 {
            Record::Absent
        } else {
            Record::InFlight {
                token: mine,
                attempt,
                started_at,
                lease_until: now,
            }
        };
        is_done.then(|| self.with(released))
    }

    fn forget(&self, forgot: Forgot, now: Time) -> Option<Self> {
        let right = match self.record {
            Record::Absent => Forgot::Nothing,
            Record::InFlight { lease_until, .. } if now < lease_until => Forgot::Refused,
            Record::InFlight { .. } | Record::Completed { .. } => Forgot::Something,
        };
        let is_gone = right == Forgot::Something;
        (forgot == right).then(|| {
            if is_gone {
                self.with(Record::Absent)
            } else {
                *self
            }
        })
    }
}
