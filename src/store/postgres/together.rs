//! Changes that come at once are made in one transaction, so that they share one commit and one flight to the server and back.
//!
//! A few tasks make what is in the queue, as much of it at a time as goes together. They don't wait for a row that somebody else
//! has locked: such a change goes back to its caller, who makes it alone and with more patience, and the others into the queue.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Shared;
use super::failure::{is_locked, says_locked};
use super::link::{Statement, Undone};
use super::register::Opaque;
use crate::store::register::{RecordId, Refused};
use crate::sync::Mutex;

/// How many tasks make changes at once.
const MOST_AT_ONCE: usize = 4;
/// How many changes one transaction makes, and about how many bytes of values.
const MOST_TOGETHER: usize = 64;
const MOST_BYTES: usize = 1 << 20;

/// A row that is to be put under an id, if there is none, or the expected version.
pub(super) struct Change {
    pub(super) id: RecordId,
    pub(super) expected: Option<i64>,
    pub(super) version: i64,
    pub(super) bytes: Bytes,
    pub(super) ends_at_ms: i64,
}

/// Who waits for a change.
#[derive(Default)]
pub(super) struct Queue(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    tasks: usize,
}

struct Waiting {
    change: Arc<Change>,
    tell: oneshot::Sender<Told>,
}

enum Told {
    /// What the change's statement gave.
    Rows(Vec<Row>),
    Failed(Refused),
    /// Nothing was changed; alone it may be.
    Alone,
    /// Nothing was changed: somebody has locked the row.
    Locked,
}

/// A task.
struct Maker {
    shared: Arc<Shared>,
    /// Among the queue's tasks.
    counts: bool,
}

impl Shared {
    /// Makes a change, with those of others if there are any; gives what its statement gave.
    pub(super) async fn make(self: &Arc<Self>, change: Change) -> Result<Vec<Row>, Refused> {
        let change = Arc::new(change);
        let mut turn = None;
        // Where somebody waits for the row, it would only hold up what is made with it.
        if self.patience.knows(change.id) {
            turn = Some(self.patience.turn(change.id).await);
        } else {
            let (tell, told) = oneshot::channel();
            let waiting = Waiting {
                change: Arc::clone(&change),
                tell,
            };
            if self.queue.join(waiting) {
                let (shared, counts) = (Arc::clone(self), true);
                tokio::spawn(Maker { shared, counts }.work());
            }
            match told.await {
                Ok(Told::Rows(rows)) => return Ok(rows),
                Ok(Told::Failed(refused)) => return Err(refused),
                Ok(Told::Alone) => {}
                Ok(Told::Locked) => turn = Some(self.patience.turn(change.id).await),
                Err(_) => return Err(Refused::unknown("the change was given up under way")),
            }
        }
        let columns = Columns::of(&change);
        let statement = self.statement(&columns);
        let made = self.link.patiently(&self.sql, statement).await;
        drop(turn);
        made
    }

    /// Makes some changes, and tells whoever waits for them.
    async fn make_all(&self, mut waiting: Vec<Waiting>) {
        let changes: Vec<&Change> = waiting.iter().map(|waiting| &*waiting.change).collect();
        let made = match changes[..] {
            [change] => self.make_one(change).await.map(|rows| vec![rows]),
            _ => self.make_together(&changes).await,
        };
        match made {
            Ok(rows) => {
                for (waiting, rows) in waiting.into_iter().zip(rows) {
                    drop(waiting.tell.send(Told::Rows(rows)));
                }
            }
            Err(Undone::Refused(refused)) if waiting.len() == 1 => {
                let told = if is_locked(&refused) {
                    Told::Locked
                } else {
                    Told::Failed(refused)
                };
                let only = waiting.pop();
                only.map(|only| only.tell.send(told));
            }
            Err(Undone::Nothing {
                error,
                culprit: Some(culprit),
                ..
            }) if says_locked(&error) => {
                drop(waiting.remove(culprit).tell.send(Told::Locked));
                self.queue.join_again(waiting);
            }
            Err(Undone::Refused(_) | Undone::Nothing { .. }) => {
                for waiting in waiting {
                    drop(waiting.tell.send(Told::Alone));
                }
            }
            Err(Undone::Unknown(error)) => {
                for waiting in waiting {
                    let refused = Refused::unknown(error.to_string());
                    drop(waiting.tell.send(Told::Failed(refused)));
                }
            }
        }
    }

    async fn make_one(&self, change: &Change) -> Result<Vec<Row>, Undone> {
        let columns = Columns::of(change);
        let Statement { text, parameters } = self.statement(&columns);
        let rows = self.link.rows(&self.sql, text, &parameters).await;
        rows.map_err(Undone::Refused)
    }

    async fn make_together(&self, changes: &[&Change]) -> Result<Vec<Vec<Row>>, Undone> {
        let columns: Vec<_> = changes.iter().map(|change| Columns::of(change)).collect();
        // Whoever locks rows in this order waits for nobody who waits for it.
        let mut order: Vec<_> = (0..columns.len()).collect();
        order.sort_unstable_by_key(|place| changes[*place].id.as_bytes());
        let statements = order.iter().map(|place| self.statement(&columns[*place]));
        let statements: Vec<_> = statements.collect();
        let begin = "BEGIN";
        let rows = self.link.transaction(&self.sql, begin, &statements).await;
        let rows = rows.map_err(|undone| undone.with_culprit(|at| order[at]))?;
        let mut in_place: Vec<_> = order.into_iter().zip(rows).collect();
        in_place.sort_unstable_by_key(|(place, _)| *place);
        Ok(in_place.into_iter().map(|(_, rows)| rows).collect())
    }

    fn statement<'a>(&'a self, columns: &'a Columns<'_>) -> Statement<'a> {
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
            &columns.id,
            &columns.version,
            &columns.bytes,
            &columns.ends_at_ms,
        ];
        let text = match &columns.expected {
            None => &self.sql.insert,
            Some(expected) => {
                parameters.push(expected);
                &self.sql.update
            }
        };
        Statement { text, parameters }
    }
}

/// A change as the statements take it.
struct Columns<'a> {
    id: Opaque<'a>,
    version: i64,
    bytes: Opaque<'a>,
    ends_at_ms: i64,
    expected: Option<i64>,
}

impl<'a> Columns<'a> {
    fn of(change: &'a Change) -> Self {
        Self {
            id: Opaque(change.id.as_bytes()),
            version: change.version,
            bytes: Opaque(&change.bytes),
            ends_at_ms: change.ends_at_ms,
            expected: change.expected,
        }
    }
}

impl Queue {
    /// Whether one more task is to be started.
    fn join(&self, waiting: Waiting) -> bool {
        let mut state = self.0.lock();
        state.waiting.push_back(waiting);
        let is_one_more = state.tasks < MOST_AT_ONCE;
        state.tasks += usize::from(is_one_more);
        is_one_more
    }

    /// Those that have failed beside another one go first.
    fn join_again(&self, waiting: Vec<Waiting>) {
        let mut state = self.0.lock();
        for waiting in waiting.into_iter().rev() {
            state.waiting.push_front(waiting);
        }
    }

    /// What a task is to make next, whose callers are still there; if there is nothing, the task counts no more. Each id is
    /// there once: what one transaction did twice to a row couldn't be told apart.
    fn next(&self) -> Vec<Waiting> {
        let mut state = self.0.lock();
        let (mut ids, mut bytes) = (HashSet::new(), 0);
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        while taken.len() < MOST_TOGETHER && bytes < MOST_BYTES {
            let Some(next) = state.waiting.pop_front() else {
                break;
            };
            if next.tell.is_closed() {
                continue;
            }
            if ids.insert(next.change.id) {
                bytes += next.change.bytes.len();
                taken.push(next);
            } else {
                left.push(next);
            }
        }
        for next in left.into_iter().rev() {
            state.waiting.push_front(next);
        }
        if taken.is_empty() {
            state.tasks -= 1;
        }
        taken
    }
}

impl Maker {
    async fn work(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let waiting = shared.queue.next();
            if waiting.is_empty() {
                self.counts = false;
                return;
            }
            // Whoever waits is told that it is unclear, if this takes too long.
            drop(timeout(shared.link.settings.timeout, shared.make_all(waiting)).await);
        }
    }
}

/// Dropped with its runtime, say.
impl Drop for Maker {
    fn drop(&mut self) {
        if self.counts {
            self.shared.queue.0.lock().tasks -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Digest;

    fn waiting(id: u8, bytes: usize) -> (Waiting, oneshot::Receiver<Told>) {
        let (tell, told) = oneshot::channel();
        let change = Arc::new(Change {
            id: RecordId(Digest([id; 32])),
            expected: None,
            version: 1,
            bytes: vec![0; bytes].into(),
            ends_at_ms: 0,
        });
        (Waiting { change, tell }, told)
    }

    fn ids(waiting: &[Waiting]) -> Vec<u8> {
        let ids = waiting
            .iter()
            .map(|waiting| waiting.change.id.as_bytes()[0]);
        ids.collect()
    }

    #[test]
    fn each_id_goes_once_at_a_time_and_who_has_gone_does_not() {
        let queue = Queue::default();
        let mut told = Vec::new();
        for (place, id) in [1, 2, 1, 3, 4, 2].into_iter().enumerate() {
            let (waiting, its_told) = waiting(id, 0);
            assert_eq!(queue.join(waiting), place < MOST_AT_ONCE);
            told.push(its_told);
        }
        drop(told.remove(3));
        assert_eq!(ids(&queue.next()), [1, 2, 4]);
        assert_eq!(ids(&queue.next()), [1, 2]);
        for tasks in (0..MOST_AT_ONCE).rev() {
            assert_eq!(ids(&queue.next()), [0; 0]);
            assert_eq!(queue.0.lock().tasks, tasks);
        }
    }

    #[test]
    fn what_goes_together_has_a_limit_in_number_and_in_bytes() {
        let queue = Queue::default();
        let mut told = Vec::new();
        for id in 0..3 {
            let (waiting, its_told) = waiting(id, MOST_BYTES / 2);
            queue.join(waiting);
            told.push(its_told);
        }
        assert_eq!(ids(&queue.next()), [0, 1]);
        assert_eq!(ids(&queue.next()), [2]);
        for id in 0..=u8::try_from(MOST_TOGETHER).unwrap() {
            let (waiting, its_told) = waiting(id, 0);
            queue.join(waiting);
            told.push(its_told);
        }
        assert_eq!(queue.next().len(), MOST_TOGETHER);
        assert_eq!(queue.next().len(), 1);
    }
}
