//! The embedded engine and the reference model, which are asked the same and have to answer the same.
//! The fuzz target `operations` has this file, too.

use std::time::Duration;

use onceward::{
    Engine, Entry, ErrorKind, Fingerprint, Guard, Key, ManualClock, OnAbandon, Outcome, Reply,
    Resolution, Terms,
};
use tempfile::TempDir;

const LEASE: Duration = Duration::from_secs(120);
const RETENTION: Duration = Duration::from_secs(3_600);
pub(crate) const KEYS: usize = 4;

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Begin {
        key: usize,
        request: u8,
        terms: Option<Terms>,
    },
    Complete {
        guard: usize,
        body: u8,
    },
    Renew {
        guard: usize,
    },
    Release {
        guard: usize,
    },
    Drop {
        guard: usize,
    },
    Forget {
        key: usize,
    },
    Resolve {
        key: usize,
        resolution: Resolution,
    },
    Check,
    Pass(Duration),
    Sweep,
    Reopen,
}

#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) holds: bool,
    pub(crate) segment_entries: u64,
    pub(crate) caches: bool,
}

/// Both engines on one clock, and the guards that both have granted; the tested one's folder.
pub(crate) struct Pair {
    clock: ManualClock,
    folder: TempDir,
    setup: Setup,
    tested: Option<Engine>,
    model: Engine,
    guards: Vec<(Guard, Guard)>,
    last_token: u64,
}

fn numbered(number: usize) -> Key {
    Key::new("tenant", format!("key {number}")).unwrap()
}

impl Pair {
    pub(crate) fn new(setup: Setup, folder: TempDir) -> Self {
        let clock = ManualClock::new();
        let mut builder = Engine::builder()
            .clock(clock.clone())
            .lease(LEASE)
            .retention(RETENTION);
        if setup.holds {
            builder = builder.on_abandon(OnAbandon::Hold);
        }
        let model = builder.open_in_memory().unwrap();
        let mut pair = Self {
            clock,
            folder,
            setup,
            tested: None,
            model,
            guards: Vec::new(),
            last_token: 0,
        };
        pair.reopen();
        pair
    }

    fn tested(&self) -> &Engine {
        self.tested.as_ref().unwrap()
    }

    fn reopen(&mut self) {
        // Guards of a closed engine are worth nothing; their leases stand.
        self.guards.clear();
        if let Some(engine) = self.tested.take() {
            engine.close().unwrap();
        }
        let builder = Engine::builder()
            .clock(self.clock.clone())
            .lease(LEASE)
            .retention(RETENTION)
            .segment_entries(self.setup.segment_entries)
            .merge_above(4)
            .replay_cache_bytes(if self.setup.caches { 10_000 } else { 0 })
            .on_abandon(if self.setup.holds {
                OnAbandon::Hold
            } else {
                OnAbandon::Rerun
            });
        self.tested = Some(builder.open(self.folder.path().join("engine")).unwrap());
    }

    fn begin(&mut self, key: &Key, request: u8, terms: Option<Terms>) {
        let fingerprint = Fingerprint::builder()
            .part("number", [request])
            .build()
            .unwrap();
        let begin = |engine: &Engine| match terms {
            Some(terms) => engine.begin_with(key, &fingerprint, terms).unwrap(),
            None => engine.begin(key, &fingerprint).unwrap(),
        };
        match (begin(self.tested()), begin(&self.model)) {
            (Outcome::Proceed(tested), Outcome::Proceed(model)) => {
                assert_eq!(tested.attempt(), model.attempt());
                assert_eq!(tested.lease_until(), model.lease_until());
                assert!(tested.token() > self.last_token, "tokens rise");
                self.last_token = tested.token();
                self.guards.push((tested, model));
            }
            (Outcome::Replay(tested), Outcome::Replay(model)) => assert_eq!(tested, model),
            (Outcome::Conflict(tested), Outcome::Conflict(model)) => assert_eq!(tested, model),
            (Outcome::InFlight(tested), Outcome::InFlight(model)) => assert_eq!(tested, model),
            (tested, model) => panic!("{tested:?}, but the model: {model:?}"),
        }
    }

    fn guard(&mut self, at: usize) -> Option<(Guard, Guard)> {
        (!self.guards.is_empty()).then(|| self.guards.swap_remove(at % self.guards.len()))
    }

    fn complete(&mut self, at: usize, body: u8) {
        let Some((tested, model)) = self.guard(at) else {
            return;
        };
        let reply = Reply::new(200, vec![body; usize::from(body)]);
        match (tested.complete(reply.clone()), model.complete(reply)) {
            (Ok(()), Ok(())) => {}
            (Err(tested), Err(model)) => {
                assert_eq!(tested.to_string(), model.to_string());
                // What lost its lease may try again and must lose again.
                self.guards
                    .push((tested.into_parts().0, model.into_parts().0));
            }
            (tested, model) => panic!("{tested:?}, but the model: {model:?}"),
        }
    }

    fn release(&mut self, at: usize) {
        let Some((tested, model)) = self.guard(at) else {
            return;
        };
        match (tested.release(), model.release()) {
            (Ok(()), Ok(())) => {}
            (Err(tested), Err(model)) => {
                assert_eq!(tested.to_string(), model.to_string());
                self.guards
                    .push((tested.into_parts().0, model.into_parts().0));
            }
            (tested, model) => panic!("{tested:?}, but the model: {model:?}"),
        }
    }

    fn renew(&mut self, at: usize) {
        let Some((mut tested, mut model)) = self.guard(at) else {
            return;
        };
        same(tested.renew(), model.renew());
        assert_eq!(tested.lease_until(), model.lease_until());
        self.guards.push((tested, model));
    }

    fn check_records(&self) {
        for number in 0..KEYS {
            let lookup = |engine: &Engine| engine.lookup(&numbered(number)).unwrap().map(tokenless);
            assert_eq!(lookup(self.tested()), lookup(&self.model), "key {number}");
        }
        let mut held = [self.tested(), &self.model].map(|engine| {
            let held = engine.held().unwrap().into_iter();
            held.map(tokenless)
                .map(|entry| format!("{entry:?} {:?}", entry.key.as_ref().map(Key::key)))
                .collect::<Vec<_>>()
        });
        for held in &mut held {
            held.sort();
        }
        assert_eq!(held[0], held[1]);
        let live = (0..KEYS)
            .filter(|number| self.model.lookup(&numbered(*number)).unwrap().is_some())
            .count() as u64;
        let counted = self.tested().stats().live_keys;
        assert!(
            counted >= live && counted <= KEYS as u64,
            "{counted} live keys, not {live}"
        );
    }

    /// Checks what there is, now and after a restart, and that it goes in time.
    pub(crate) fn finish(mut self) {
        self.check_records();
        self.reopen();
        self.check_records();
        self.check_that_everything_goes();
    }

    /// After a month nothing is left but what is held, and the count knows it.
    fn check_that_everything_goes(&self) {
        for _ in 0..2 {
            self.clock.advance(Duration::from_secs(30 * 86_400));
            self.tested().sweep().unwrap();
        }
        let held = self.model.held().unwrap().len() as u64;
        let stats = self.tested().stats();
        assert_eq!((stats.live_keys, stats.in_flight), (held, held));
        assert!(stats.segments <= 1 + held, "{stats:?}");
    }

    pub(crate) fn take(&mut self, step: Step) {
        match step {
            Step::Begin {
                key,
                request,
                terms,
            } => self.begin(&numbered(key), request, terms),
            Step::Complete { guard, body } => self.complete(guard, body),
            Step::Renew { guard } => self.renew(guard),
            Step::Release { guard } => self.release(guard),
            Step::Drop { guard } => drop(self.guard(guard)),
            Step::Forget { key } => {
                let key = numbered(key);
                same(self.tested().forget(&key), self.model.forget(&key));
            }
            Step::Resolve { key, resolution } => {
                let key = numbered(key);
                same(
                    self.tested().resolve(&key, resolution.clone()),
                    self.model.resolve(&key, resolution),
                );
            }
            Step::Check => self.check_records(),
            Step::Pass(time) => self.clock.advance(time),
            Step::Sweep => {
                self.tested().sweep().unwrap();
                self.model.sweep().unwrap();
            }
            Step::Reopen => self.reopen(),
        }
    }
}

/// Tokens count different things in the two stores.
fn tokenless(mut entry: Entry) -> Entry {
    entry.token = 0;
    entry
}

fn same<T: PartialEq + std::fmt::Debug>(tested: onceward::Result<T>, model: onceward::Result<T>) {
    let kind = |result: onceward::Result<T>| result.map_err(|error: onceward::Error| error.kind());
    let (tested, model): (Result<T, ErrorKind>, Result<T, ErrorKind>) = (kind(tested), kind(model));
    assert_eq!(tested, model);
}
