//! The store without a disk: the reference model, and a store for users' tests.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use super::{
    Answer, Chunks, Figures, Glance, Observed, Observer, Reads, Request, Rules, Seen, Store, Swept,
};
use crate::clock::Timeline;
use crate::decision::{self, Change, Command, Context, Decision, Limit, Verdict};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::progress::Progress;
use crate::record::{Record, Stored};
use crate::secret::{Digest, Secret};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::verification::Verification;

/// Keeps every record in one map; forgets them all when it goes.
pub(crate) struct Memory {
    secret: Secret,
    timeline: Timeline,
    rules: Rules,
    observer: Arc<dyn Observer>,
    state: Mutex<State>,
    is_closed: AtomicBool,
}

#[derive(Default)]
struct State {
    records: HashMap<Digest, Arc<Stored>>,
    /// How many of them each scope has.
    live_keys_of: HashMap<u64, u64>,
    last_token: u64,
}

impl State {
    fn in_flight(&self) -> impl Iterator<Item = &Arc<Stored>> {
        let all = self.records.values();
        all.filter(|stored| matches!(stored.record, Record::InFlight(_)))
    }
}

impl Memory {
    pub(crate) fn new(
        secret: Secret,
        timeline: Timeline,
        rules: Rules,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self {
            secret,
            timeline,
            rules,
            observer,
            state: Mutex::default(),
            is_closed: AtomicBool::new(false),
        }
    }

    fn decide(&self, state: &State, digest: &Digest, command: &Command) -> Decision {
        let record = state.records.get(digest).map(|stored| &stored.record);
        let context = Context {
            now: self.timeline.now(),
            next_token: state.last_token + 1,
            // A key that counts already, because its old record is still to be swept, adds nothing.
            full: match record {
                Some(_) => None,
                None => self.limit_to(state, digest),
            },
            on_abandon: self.rules.on_abandon,
        };
        decision::decide(record, command, &context)
    }

    /// What leaves no room for a new key.
    fn limit_to(&self, state: &State, digest: &Digest) -> Option<Limit> {
        if state.records.len() as u64 >= self.rules.max_live_keys {
            return Some(Limit::LiveKeys);
        }
        let most = self.rules.max_live_keys_per_scope?;
        let of_scope = state.live_keys_of.get(&digest.scope()).copied();
        (of_scope.unwrap_or(0) >= most).then_some(Limit::LiveKeysPerScope)
    }

    fn apply(&self, request: Request) -> Result<Verdict> {
        let mut state = self.state.lock();
        self.condition()?;
        let decision = self.decide(&state, &request.digest, &request.command);
        if let Some(change) = decision.change {
            if let Verdict::Proceed(grant) = &decision.verdict {
                state.last_token = grant.token;
            }
            let key = self.rules.keeps_keys.then_some(request.key);
            let observed = put(&mut state, request.digest, key, change);
            if matches!(observed, Observed::InFlight { .. }) {
                // In the order of the grants and renewals, so that the newest lease counts.
                self.observer.changed(&request.digest, observed);
                return Ok(decision.verdict);
            }
            // Waking runs an executor's code, which may come back here.
            drop(state);
            self.observer.changed(&request.digest, observed);
        }
        Ok(decision.verdict)
    }
}

impl State {
    fn remove(&mut self, digest: &Digest) {
        if self.records.remove(digest).is_some()
            && let Entry::Occupied(mut of_scope) = self.live_keys_of.entry(digest.scope())
        {
            *of_scope.get_mut() -= 1;
            if *of_scope.get() == 0 {
                of_scope.remove();
            }
        }
    }
}

fn put(state: &mut State, digest: Digest, key: Option<Key>, change: Change) -> Observed {
    match change {
        Change::Remove => {
            state.remove(&digest);
            Observed::Free
        }
        Change::Put(record) => {
            let observed = Observed::of(Some(&record));
            let stored = Stored {
                digest,
                key,
                record,
            };
            if state.records.insert(digest, Arc::new(stored)).is_none() {
                *state.live_keys_of.entry(digest.scope()).or_default() += 1;
            }
            observed
        }
    }
}

impl Store for Memory {
    fn secret(&self) -> &Secret {
        &self.secret
    }

    fn glance(&self, digest: &Digest, command: &Command, _reads: Reads) -> Result<Glance> {
        self.condition()?;
        let state = self.state.lock();
        let decision = self.decide(&state, digest, command);
        Ok(Glance::of(decision, Seen::default()))
    }

    fn load(&self, digest: &Digest) -> Result<Option<Stored>> {
        self.condition()?;
        let now = self.timeline.now();
        let state = self.state.lock();
        Ok(state
            .records
            .get(digest)
            .filter(|stored| !decision::is_over(&stored.record, now, self.rules.on_abandon))
            .map(|stored| Stored::clone(stored)))
    }

    fn submit(&self, request: Request, answer: Answer) {
        answer.send(self.apply(request));
    }

    fn in_flight(&self) -> Result<Vec<Arc<Stored>>> {
        let state = self.state.lock();
        Ok(state.in_flight().cloned().collect())
    }

    fn sweep(&self) -> Result<Swept> {
        self.condition()?;
        let now = self.timeline.now();
        let mut state = self.state.lock();
        let is_over =
            |stored: &Stored| decision::is_over(&stored.record, now, self.rules.on_abandon);
        let over = state.records.values().filter(|stored| is_over(stored));
        let over: Vec<Digest> = over.map(|stored| stored.digest).collect();
        for digest in &over {
            state.remove(digest);
        }
        Ok(Swept {
            records: over.len() as u64,
            segments: 0,
        })
    }

    fn live_keys(&self) -> u64 {
        self.state.lock().records.len() as u64
    }

    fn figures(&self) -> Figures {
        let in_flight = self.state.lock().in_flight().count() as u64;
        Figures {
            in_flight,
            ..Figures::default()
        }
    }

    /// There is nothing that could be damaged.
    fn verify(&self, _tell: &mut dyn FnMut(Progress)) -> Result<Verification> {
        self.condition()?;
        Ok(Verification {
            entries: self.live_keys(),
            ..Verification::default()
        })
    }

    fn export(&self) -> Chunks {
        let now = self.timeline.now();
        let state = self.state.lock();
        let live = state
            .records
            .values()
            .filter(|stored| !decision::is_over(&stored.record, now, self.rules.on_abandon));
        let chunk = match self.condition() {
            Ok(()) => live.map(|stored| Ok(Stored::clone(stored))).collect(),
            Err(error) => vec![Err(error)],
        };
        Box::new(std::iter::once(chunk))
    }

    fn condition(&self) -> Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::closed());
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        // Under the lock, so that no change follows the close.
        let state = self.state.lock();
        self.is_closed.store(true, Ordering::Release);
        drop(state);
        self.observer.stopped();
        Ok(())
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}
