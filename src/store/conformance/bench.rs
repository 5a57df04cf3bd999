//! A store on a clock that a scenario moves.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::decision::{Command, Grant, Verdict};
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::observe::Meters;
use crate::outcome::OnAbandon;
use crate::record::Record;
use crate::reply::Reply;
use crate::secret::Digest;
use crate::store::register::{Caching, Limit, Register, RegisterStore, connect};
use crate::store::{Answer, Glance, Observed, Observer, Reads, Request, Rules, Store};
use crate::sync::block_on;

pub(crate) const LEASE: Duration = Duration::from_secs(120);
pub(crate) const RETENTION: Duration = Duration::from_secs(86_400);

/// A store, and how a scenario lets time pass there.
pub(crate) struct Bench {
    pub(crate) store: Arc<dyn Store>,
    /// In which no other scenario's keys are.
    scope: String,
    advance: Box<dyn Fn(Duration)>,
    margins: Margins,
    /// Dropped after the store was closed.
    _kept: Box<dyn Any>,
}

/// How near to a moment a scenario looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Margins {
    pub(crate) before: Duration,
    pub(crate) after: Duration,
}

impl Margins {
    /// For a clock that stands still between two moves.
    #[cfg(test)]
    pub(crate) const EXACT: Self = Self {
        before: Duration::from_millis(1),
        after: Duration::ZERO,
    };
    /// For a clock that runs by itself, too: longer than a few round trips.
    pub(crate) const RUNNING: Self = Self {
        before: Duration::from_secs(30),
        after: Duration::from_secs(30),
    };
}

#[derive(Debug)]
pub(super) struct Nobody;

impl Observer for Nobody {
    fn changed(&self, _digest: &Digest, _now: Observed) {}

    fn interrupted(&self) {}

    fn stopped(&self) {}
}

pub(super) fn rules(on_abandon: OnAbandon, max_live_keys: u64) -> Rules {
    Rules {
        on_abandon,
        max_live_keys,
        max_live_keys_per_scope: None,
        retention: RETENTION,
        keeps_keys: true,
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let closed = self.store.close();
        if !std::thread::panicking() {
            closed.unwrap();
        }
    }
}

impl Bench {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        scope: &str,
        advance: impl Fn(Duration) + 'static,
        margins: Margins,
        kept: impl Any,
    ) -> Self {
        Self {
            store,
            scope: scope.to_owned(),
            advance: Box::new(advance),
            margins,
            _kept: Box::new(kept),
        }
    }

    /// One node on a register.
    pub(crate) fn on_register(
        register: impl Register,
        clock: Arc<dyn Clock>,
        on_abandon: OnAbandon,
        scope: &str,
        advance: impl Fn(Duration) + 'static,
        margins: Margins,
    ) -> Self {
        let connected = connect(register, None, clock, LEASE).unwrap();
        let caching = Caching {
            bytes: 1 << 20,
            time: RETENTION,
        };
        let rules = rules(on_abandon, u64::MAX);
        let limit = Limit {
            depth: 1_024,
            wait: Duration::from_secs(1),
        };
        let (bounds, meters) = ((caching, limit), Meters::new("conformance"));
        let store = RegisterStore::start(connected, rules, bounds, meters, Arc::new(Nobody));
        Self::new(Arc::new(store), scope, advance, margins, ())
    }

    pub(crate) fn digest(&self, key: &str) -> Digest {
        self.store.secret().digest(&self.key(key))
    }

    fn key(&self, key: &str) -> Key {
        Key::new(&self.scope, key).unwrap()
    }

    pub(crate) fn ask_key(&self, key: &str, command: Command) -> Verdict {
        let key = self.key(key);
        let digest = self.store.secret().digest(&key);
        let seen = match self.store.glance(&digest, &command, Reads::Here).unwrap() {
            Glance::Decided(verdict) => return verdict,
            Glance::Write(seen) => seen,
            Glance::Read => unreachable!("a read may happen here"),
        };
        let request = Request {
            key,
            digest,
            command,
            seen,
        };
        let (answer, pending) = Answer::new(Arc::downgrade(&self.store), &request);
        self.store.submit(request, answer);
        block_on(pending).unwrap().unwrap()
    }

    pub(super) fn ask(&self, command: Command) -> Verdict {
        self.ask_key("key", command)
    }

    pub(crate) fn begin_command(&self, request: &str) -> Command {
        self.begin_kept_for(request, RETENTION)
    }

    /// A begin whose answer is to be kept for so long.
    pub(super) fn begin_kept_for(&self, request: &str, retention: Duration) -> Command {
        Command::Begin {
            takes_over: None,
            fingerprint: self.store.secret().seal(&Fingerprint::of(request)),
            lease: LEASE,
            retention,
        }
    }

    pub(super) fn begin(&self, request: &str) -> Verdict {
        self.ask(self.begin_command(request))
    }

    pub(super) fn granted(&self, request: &str) -> Grant {
        match self.begin(request) {
            Verdict::Proceed(grant) => grant,
            other => panic!("not granted: {other:?}"),
        }
    }

    pub(super) fn complete(&self, token: u64, body: &'static str) -> Verdict {
        self.ask(Command::Complete {
            token,
            reply: Reply::new(201, body),
            retention: RETENTION,
        })
    }

    pub(super) fn renew(&self, token: u64) -> Verdict {
        self.ask(Command::Renew {
            token,
            lease: LEASE,
        })
    }

    pub(super) fn release(&self, token: u64) -> Verdict {
        self.ask(Command::Release { token })
    }

    pub(super) fn record(&self) -> Option<Record> {
        let stored = self.store.load(&self.digest("key")).unwrap();
        stored.map(|stored| stored.record)
    }

    /// How many keys of the scenario's are in flight.
    pub(super) fn in_flight(&self) -> usize {
        let in_flight = self.store.in_flight().unwrap();
        let keys = in_flight.iter().filter_map(|stored| stored.key.as_ref());
        keys.filter(|key| key.scope() == Some(&self.scope)).count()
    }

    pub(super) fn is_in_flight(&self, request: &str, held: bool) -> bool {
        match self.begin(request) {
            Verdict::InFlight(in_flight) => in_flight.is_held() == held,
            _ => false,
        }
    }

    pub(super) fn is_replayed(&self, request: &str, body: &'static str) -> bool {
        self.begin(request) == Verdict::Replay(Reply::new(201, body))
    }

    /// How much longer than it should a lease may seem to the scenario.
    pub(super) fn margin(&self) -> Duration {
        self.margins.before
    }

    /// Lets time pass until something that takes so long, and begins now, is over.
    pub(crate) fn pass(&self, time: Duration) {
        (self.advance)(time + self.margins.after);
    }

    /// Lets time pass until something that takes so long, and begins now, is nearly over.
    pub(crate) fn pass_nearly(&self, time: Duration) {
        (self.advance)(time.saturating_sub(self.margins.before));
    }

    /// Lets what was nearly over be over.
    pub(crate) fn pass_the_rest(&self) {
        (self.advance)(self.margins.before + self.margins.after);
    }
}
