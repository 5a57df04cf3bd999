//! What the model remembers: the store, its callers, and what they have been told.

use onceward::protocol_model::{Answer, Ask, Row, Said, Time};

pub(super) const KEYS: usize = 2;

/// Every record, the newest token, and the newest time on record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Records {
    pub(super) rows: [Row; KEYS],
    pub(super) last_token: u64,
    pub(super) mark: Time,
}

/// A guard in a caller's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Held {
    pub(super) key: usize,
    pub(super) request: u8,
    pub(super) token: u64,
    /// The end of the lease as the caller knows it.
    pub(super) until: Time,
    /// Whether the handler may be running: not once it has asked to complete or release.
    pub(super) is_running: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Phase {
    Queued,
    /// Decided, in a batch that isn't durable.
    Decided(Said),
    /// May be answered.
    Ready(Said),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Call {
    pub(super) key: usize,
    pub(super) ask: Ask,
    pub(super) phase: Phase,
}

/// One thread, with at most one guard and one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Caller {
    pub(super) held: Option<Held>,
    pub(super) call: Option<Call>,
}

/// What somebody has been told of a key, and what no crash may take back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Told {
    /// The newest granted token whose holder hasn't given it up, and its lease's end.
    pub(super) lease: Option<(u64, Time)>,
    /// The answer, and until when it has to be replayed.
    pub(super) answer: Option<(Answer, Time)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Breach {
    DoubleGrant,
    LostAnswer,
    FalseReplay,
    StaleWrite,
    StuckKey,
    /// An earlier attempt may have had its effect, and a later one has to know.
    LostCount,
}

/// What the last step did to a batch that was decided and not yet answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Crashed {
    #[default]
    Not,
    BatchLost,
    BatchKept,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) now: Time,
    /// What is on the disk, and published.
    pub(super) durable: Records,
    /// The same with what was decided since.
    pub(super) decided: Records,
    /// Sorted: which caller is which makes no difference.
    pub(super) callers: Vec<Caller>,
    pub(super) told: [Told; KEYS],
    pub(super) highest_told: u64,
    pub(super) crashes: u8,
    pub(super) crashed: Crashed,
    /// How a step has broken a promise.
    pub(super) broken: Option<Breach>,
}

impl State {
    pub(super) fn new(callers: usize) -> Self {
        Self {
            now: 0,
            durable: Records::default(),
            decided: Records::default(),
            callers: vec![Caller::default(); callers],
            told: [Told::default(); KEYS],
            highest_told: 0,
            crashes: 0,
            crashed: Crashed::Not,
            broken: None,
        }
    }

    pub(super) fn breaks(&mut self, breach: Breach) {
        self.broken.get_or_insert(breach);
    }

    /// Brings states that can't be told apart any more into one form.
    pub(super) fn tidy(&mut self) {
        self.callers.sort_unstable();
        // No clock goes back behind the newest durable time.
        let mark = self.durable.mark;
        for told in &mut self.told {
            told.lease = told.lease.filter(|(_, until)| *until > mark);
            told.answer = told.answer.filter(|(_, until)| *until > mark);
        }
    }

    pub(super) fn said(&self) -> impl Iterator<Item = (&Caller, &Call, Said)> {
        self.callers.iter().filter_map(|caller| {
            let call = caller.call.as_ref()?;
            match call.phase {
                Phase::Ready(said) => Some((caller, call, said)),
                Phase::Queued | Phase::Decided(_) => None,
            }
        })
    }
}
