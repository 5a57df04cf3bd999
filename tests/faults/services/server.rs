//! A register in memory whose faults the plan tells, and what it notes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use onceward::register::{
    Cell, Cursor, Loaded, Page, RecordId, Refused, Register, Swapped, Value, Version, cell,
};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::plan::{Event, Plan, REPLICA_WAIT_MS, TIMEOUT_MS, Trouble};

/// The one cell that isn't a key's.
const FIRST: [u8; 32] = [0; 32];

/// A change that was made, or a loss.
#[derive(Clone, Debug)]
pub(super) struct Noted {
    pub(super) at_ms: u64,
    pub(super) server_ms: u64,
    pub(super) id: RecordId,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Made {
        node: usize,
        cell: Cell,
        /// The same as was there.
        is_same: bool,
        /// Whoever asked for it was told.
        is_acknowledged: bool,
    },
    /// The cell is gone, or is as it was before. Whoever waits for replicas had been told of
    /// nothing of that.
    Lost { is_by_lag: bool },
}

pub(super) struct Server {
    pub(super) plan: Arc<Plan>,
    began: Instant,
    state: Mutex<State>,
}

type Cells = BTreeMap<RecordId, Value>;

#[derive(Default)]
struct State {
    cells: Cells,
    replica: Cells,
    /// What the replica is still to have, and when.
    backlog: VecDeque<(u64, RecordId, Value)>,
    noted: Vec<Noted>,
}

impl Server {
    pub(super) fn new(plan: Arc<Plan>) -> Arc<Self> {
        Arc::new(Self {
            plan,
            began: Instant::now(),
            state: Mutex::default(),
        })
    }

    /// How long the life has lasted.
    pub(super) fn at_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) async fn sleep_until(&self, at_ms: u64) {
        while let Some(left) = at_ms.checked_sub(self.at_ms()).filter(|left| *left > 0) {
            sleep(Duration::from_millis(left)).await;
        }
    }

    pub(super) fn noted(&self) -> Vec<Noted> {
        self.state.lock().noted.clone()
    }

    pub(super) fn happen(&self, event: Event) {
        let (at_ms, plan) = (self.at_ms(), &self.plan);
        let mut state = self.state.lock();
        state.replicate(at_ms);
        let before = state.cells.clone();
        match event {
            Event::LosesOne(which) => {
                let ids: Vec<_> = state.cells.keys().copied().collect();
                if !ids.is_empty() {
                    state.cells.remove(&ids[which % ids.len()]);
                }
            }
            Event::LosesFirst => drop(state.cells.remove(&RecordId::from_bytes(FIRST))),
            Event::LosesAll => state.cells.clear(),
            Event::IsReplaced => state.cells = state.replica.clone(),
        }
        state.replica = state.cells.clone();
        state.backlog.clear();
        let is_by_lag = event == Event::IsReplaced;
        for (id, value) in before {
            if state.cells.get(&id) != Some(&value) {
                let server_ms = plan.server_ms(at_ms);
                state.noted.push(Noted {
                    at_ms,
                    server_ms,
                    id,
                    what: What::Lost { is_by_lag },
                });
            }
        }
    }

    fn load(&self, id: RecordId) -> Loaded {
        let at_ms = self.at_ms();
        Loaded {
            value: self.state.lock().cells.get(&id).cloned(),
            now_ms: self.plan.server_ms(at_ms),
        }
    }

    /// With the number under which it was noted.
    fn swap(
        &self,
        node: usize,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
    ) -> (Swapped, Option<usize>) {
        let mut state = self.state.lock();
        let at_ms = self.at_ms();
        let now_ms = self.plan.server_ms(at_ms);
        let value = state.cells.get(&id).cloned();
        if value.as_ref().map(|value| value.version) != expected {
            return (Swapped::Mismatch(Loaded { value, now_ms }), None);
        }
        let is_same = value.is_some_and(|value| value == new);
        let number = state.noted.len();
        state.noted.push(Noted {
            at_ms,
            server_ms: now_ms,
            id,
            what: What::Made {
                node,
                cell: cell(&new),
                is_same,
                is_acknowledged: false,
            },
        });
        let due_ms = at_ms + self.plan.lag_ms;
        state.backlog.push_back((due_ms, id, new.clone()));
        state.cells.insert(id, new);
        (Swapped::Done { now_ms }, Some(number))
    }

    /// Whether the replica has a change.
    fn is_replicated(&self, id: RecordId, version: Version) -> bool {
        let at_ms = self.at_ms();
        let mut state = self.state.lock();
        state.replicate(at_ms);
        state
            .replica
            .get(&id)
            .is_some_and(|it| it.version == version)
    }

    fn acknowledge(&self, number: usize) {
        if let What::Made {
            is_acknowledged, ..
        } = &mut self.state.lock().noted[number].what
        {
            *is_acknowledged = true;
        }
    }
}

impl State {
    fn replicate(&mut self, at_ms: u64) {
        while self.backlog.front().is_some_and(|(due, ..)| *due <= at_ms) {
            let (_, id, value) = self.backlog.pop_front().unwrap();
            self.replica.insert(id, value);
        }
    }
}

/// A node's way to the server.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) server: Arc<Server>,
    /// A node that the plan doesn't know has no trouble.
    pub(super) node: usize,
}

impl Way {
    fn trouble(&self) -> Option<Trouble> {
        let at_ms = self.server.at_ms();
        self.server.plan.trouble(self.node, at_ms)
    }

    /// While the node sleeps nothing goes on.
    pub(super) async fn awake(&self) {
        let (server, node) = (&self.server, self.node);
        while let Some(until) = server.plan.sleeps_until(node, server.at_ms()) {
            server.sleep_until(until).await;
        }
    }

    async fn there(&self) -> Result<(), Refused> {
        self.awake().await;
        match self.trouble() {
            Some(Trouble::Refused) => Err(Refused::unchanged("refused by the plan")),
            Some(Trouble::RequestLost) => {
                sleep(Duration::from_millis(10)).await;
                Err(Refused::unknown("lost on the way there"))
            }
            _ => Ok(()),
        }
    }

    async fn back(&self) -> Result<(), Refused> {
        sleep(Duration::from_millis(1)).await;
        self.awake().await;
        match self.trouble() {
            Some(Trouble::AnswerLost) => {
                sleep(Duration::from_millis(10)).await;
                Err(Refused::unknown("lost on the way back"))
            }
            _ => Ok(()),
        }
    }

    async fn replicated(&self, id: RecordId, version: Version) -> Result<(), Refused> {
        let until = self.server.at_ms() + REPLICA_WAIT_MS;
        while !self.server.is_replicated(id, version) {
            if self.server.at_ms() >= until {
                return Err(Refused::unknown("the replica didn't have it in time"));
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

impl Register for Way {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        self.there().await?;
        let loaded = self.server.load(id);
        self.back().await?;
        Ok(loaded)
    }

    async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
        _: u64,
    ) -> Result<Swapped, Refused> {
        self.there().await?;
        let version = new.version;
        let (swapped, noted) = self.server.swap(self.node, id, expected, new);
        if noted.is_some() && self.server.plan.waits_for_replica {
            self.replicated(id, version).await?;
        }
        self.back().await?;
        if let Some(number) = noted {
            self.server.acknowledge(number);
        }
        Ok(swapped)
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        Ok(0)
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        self.there().await?;
        let after = from.and_then(|cursor| cursor.after());
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.server.state.lock();
        let page = state.cells.range((after, Bound::Unbounded)).take(most);
        let values = page.map(|(id, value)| (*id, value.clone())).collect();
        let now_ms = self.server.plan.server_ms(self.server.at_ms());
        Ok(Page::in_order(values, most, now_ms))
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(TIMEOUT_MS)
    }
}

/// The keys that cells are of, by what was ever written to them.
pub(super) fn keys(noted: &[Noted]) -> HashMap<RecordId, String> {
    let mut keys = HashMap::new();
    for it in noted {
        if let What::Made {
            cell: Cell::InFlight { key, .. } | Cell::Completed { key, .. },
            ..
        } = &it.what
        {
            keys.insert(it.id, key.clone());
        }
    }
    keys
}
