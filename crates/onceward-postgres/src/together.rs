//! Changes that come at once are made in one transaction, so that they share one commit and one flight to the server and back.
//!
//! A few tasks make what is in the queue, as much of it at a time as goes together. They don't wait for a row that somebody else
//! has locked: such a change goes back to its caller, who makes it alone and with more patience, and the others into the queue.
//!
//! A task waits for the server's answer however long that takes, whether or not the callers still
//! do: so no more connections than there are tasks are taken by what hangs, and the others read. A
//! change that was in the queue until its caller gave up was never sent.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use onceward::register::{RecordId, Refused, Tries};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Shared;
use super::failure::{is_locked, says_locked};
use super::link::{Statement, Undone};
use super::patience::given_up;
use super::register::Opaque;

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
    /// Whether a task makes it, or has tried to.
    is_taken: AtomicBool,
}

/// Who waits for a change.
#[derive(Default)]
pub(super) struct Queue(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// The places of tasks.
    tasks: [Task; MOST_AT_ONCE],
}

/// What a task does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Task {
    /// There is none.
    #[default]
    None,
    /// It looks what is to be made.
    Looking,
    /// It has been waiting for the server since then.
    Making(Instant),
}

struct Waiting {
    change: Arc<Change>,
    /// When whoever waits gives up.
    until: Instant,
    tell: oneshot::Sender<Told>,
}

enum Told {
    /// What the change's statement gave.
    Rows(Vec<Row>),
    Failed(Refused),
    /// Nothing was changed; alone, and with patience, it may be: somebody has locked the row,
    /// perhaps.
    Alone,
}

/// A task.
struct Maker {
    shared: Arc<Shared>,
    /// Its place among the queue's tasks; none once it has given it back.
    place: Option<usize>,
}

impl Change {
    /// A value that is to be put under an id, if there is none, or that expected version.
    pub(super) fn new(
        id: RecordId,
        expected: Option<i64>,
        version: i64,
        bytes: Bytes,
        ends_at_ms: i64,
    ) -> Self {
        Self {
            id,
            expected,
            version,
            bytes,
            ends_at_ms,
            is_taken: AtomicBool::new(false),
        }
    }
}

impl Shared {
    /// Makes a change, with those of others if there are any; gives what its statement gave. Nobody
    /// waits longer than until then.
    pub(super) async fn make(
        self: &Arc<Self>,
        change: Change,
        until: Instant,
    ) -> Result<Vec<Row>, Refused> {
        let change = Arc::new(change);
        // Where somebody waits for the row, it would only hold up what is made with it.
        if !self.patience.knows(change.id) {
            let (tell, mut told) = oneshot::channel();
            let waiting = Waiting {
                change: Arc::clone(&change),
                until,
                tell,
            };
            let place = self.queue.join(waiting);
            if place.is_some() {
                let shared = Arc::clone(self);
                tokio::spawn(Maker { shared, place }.work());
            }
            let told = match timeout_at(until, &mut told).await {
                Ok(told) => told.map_err(|_| given_up()),
                Err(_) => self.queue.leave(&change, told),
            };
            match told? {
                Told::Rows(rows) => return Ok(rows),
                Told::Failed(refused) => return Err(refused),
                Told::Alone => {}
            }
        }
        // Boxed, so that each change isn't as large as one that waits.
        Box::pin(self.make_alone(change, until)).await
    }

    async fn make_alone(
        self: &Arc<Self>,
        change: Arc<Change>,
        until: Instant,
    ) -> Result<Vec<Row>, Refused> {
        let shared = Arc::clone(self);
        let made = self.patience.in_turn(change.id, until, async move {
            let columns = Columns::of(&change);
            let statement = shared.statement(&columns);
            let tries = Tries::until(until);
            shared.link.patiently(&shared.sql, statement, tries).await
        });
        made.await
    }

    /// Makes some changes, and tells whoever waits for them.
    async fn make_all(&self, mut waiting: Vec<Waiting>) {
        let changes: Vec<&Change> = waiting.iter().map(|waiting| &*waiting.change).collect();
        let until = waiting.iter().map(|waiting| waiting.until).min();
        let tries = until.map_or_else(|| self.link.tries(), Tries::until);
        let made = match changes[..] {
            [change] => self.make_one(change, tries).await.map(|rows| vec![rows]),
            _ => self.make_together(&changes, tries).await,
        };
        match made {
            Ok(rows) => {
                for (waiting, rows) in waiting.into_iter().zip(rows) {
                    drop(waiting.tell.send(Told::Rows(rows)));
                }
            }
            Err(Undone::Refused(refused)) if waiting.len() == 1 => {
                let told = if is_locked(&refused) {
                    Told::Alone
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
                drop(waiting.remove(culprit).tell.send(Told::Alone));
                self.queue.join_again(waiting);
            }
            // There was no connection.
            Err(Undone::Refused(refused)) => {
                let cause = refused.into_cause().to_string();
                for waiting in waiting {
                    let refused = Refused::unchanged(cause.clone());
                    drop(waiting.tell.send(Told::Failed(refused)));
                }
            }
            Err(Undone::Nothing { .. }) => {
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

    async fn make_one(&self, change: &Change, tries: Tries) -> Result<Vec<Row>, Undone> {
        let columns = Columns::of(change);
        let Statement { text, parameters } = self.statement(&columns);
        let rows = self.link.rows(&self.sql, text, &parameters, tries).await;
        rows.map_err(Undone::Refused)
    }

    async fn make_together(
        &self,
        changes: &[&Change],
        mut tries: Tries,
    ) -> Result<Vec<Vec<Row>>, Undone> {
        let columns: Vec<_> = changes.iter().map(|change| Columns::of(change)).collect();
        // Whoever locks rows in this order waits for nobody who waits for it.
        let mut order: Vec<_> = (0..columns.len()).collect();
        order.sort_unstable_by_key(|place| changes[*place].id.as_bytes());
        let statements = order.iter().map(|place| self.statement(&columns[*place]));
        let statements: Vec<_> = statements.collect();
        let rows = self
            .link
            .transaction(&self.sql, "BEGIN", &statements, &mut tries);
        let rows = rows
            .await
            .map_err(|undone| undone.with_culprit(|at| order[at]))?;
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

impl Waiting {
    /// Whether nobody waits any more.
    fn is_over(&self) -> bool {
        self.tell.is_closed()
    }
}

impl Queue {
    /// The place of one more task, if one is to be started.
    fn join(&self, waiting: Waiting) -> Option<usize> {
        let mut state = self.0.lock();
        // While all tasks hang, nobody else takes out those that have given up.
        while state.waiting.front().is_some_and(Waiting::is_over) {
            state.waiting.pop_front();
        }
        state.waiting.push_back(waiting);
        let free = state.tasks.iter().position(|task| *task == Task::None);
        if let Some(place) = free {
            state.tasks[place] = Task::Looking;
        }
        free
    }

    /// Those that have failed beside another one go first.
    fn join_again(&self, waiting: Vec<Waiting>) {
        let mut state = self.0.lock();
        for waiting in waiting.into_iter().rev() {
            waiting.change.is_taken.store(false, Ordering::Relaxed);
            state.waiting.push_front(waiting);
        }
    }

    /// For one who gives up: what was told at the last moment, or whether the change may have been
    /// made.
    fn leave(&self, change: &Change, mut told: oneshot::Receiver<Told>) -> Result<Told, Refused> {
        // Meanwhile no task takes it.
        let _state = self.0.lock();
        told.close();
        told.try_recv().map_err(|_| {
            if change.is_taken.load(Ordering::Relaxed) {
                Refused::unknown("the server didn't answer in time")
            } else {
                Refused::unchanged("the server didn't answer to earlier changes in time")
            }
        })
    }

    /// Whether a task has been waiting for the server for that long. What is made now, by any of them, may hang as well.
    pub(super) fn is_stuck(&self, so_long: Duration) -> bool {
        let state = self.0.lock();
        let mut tasks = state.tasks.iter();
        tasks.any(|task| matches!(task, Task::Making(since) if since.elapsed() >= so_long))
    }

    /// What the task at this place is to make next, whose callers are still there; if there is nothing, the place is free. Each id
    /// is there once: what one transaction did twice to a row couldn't be told apart.
    fn next(&self, place: usize) -> Vec<Waiting> {
        let mut state = self.0.lock();
        let (mut ids, mut bytes) = (HashSet::new(), 0);
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        while taken.len() < MOST_TOGETHER && bytes < MOST_BYTES {
            let Some(next) = state.waiting.pop_front() else {
                break;
            };
            if next.is_over() {
                continue;
            }
            if ids.insert(next.change.id) {
                next.change.is_taken.store(true, Ordering::Relaxed);
                bytes += next.change.bytes.len();
                taken.push(next);
            } else {
                left.push(next);
            }
        }
        for next in left.into_iter().rev() {
            state.waiting.push_front(next);
        }
        state.tasks[place] = if taken.is_empty() {
            Task::None
        } else {
            Task::Making(Instant::now())
        };
        taken
    }
}

impl Maker {
    async fn work(mut self) {
        let shared = Arc::clone(&self.shared);
        while let Some(place) = self.place {
            let waiting = shared.queue.next(place);
            if waiting.is_empty() {
                self.place = None;
            } else {
                shared.make_all(waiting).await;
            }
        }
    }
}

/// Dropped with its runtime, say.
impl Drop for Maker {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.shared.queue.0.lock().tasks[place] = Task::None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(id: u8, bytes: usize) -> (Waiting, oneshot::Receiver<Told>) {
        let (tell, told) = oneshot::channel();
        let id = RecordId::from_bytes([id; 32]);
        let bytes = vec![0; bytes].into();
        let waiting = Waiting {
            change: Arc::new(Change::new(id, None, 1, bytes, 0)),
            until: Instant::now(),
            tell,
        };
        (waiting, told)
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
            assert_eq!(
                queue.join(waiting),
                Some(place).filter(|it| *it < MOST_AT_ONCE)
            );
            told.push(its_told);
        }
        drop(told.remove(3));
        assert_eq!(ids(&queue.next(0)), [1, 2, 4]);
        assert_eq!(ids(&queue.next(1)), [1, 2]);
        for place in 0..MOST_AT_ONCE {
            assert_eq!(ids(&queue.next(place)), [0; 0]);
            assert_eq!(queue.0.lock().tasks[place], Task::None);
        }
    }

    #[test]
    fn a_task_that_waits_for_the_server_is_noticed_though_others_go_on() {
        let queue = Queue::default();
        let ((one, _one_told), (other, _other_told)) = (waiting(1, 0), waiting(2, 0));
        assert!(!queue.is_stuck(Duration::ZERO));
        assert_eq!(queue.join(one), Some(0));
        let hanging = queue.next(0);
        assert_eq!(queue.join(other), Some(1));
        drop(queue.next(1));
        assert!(queue.next(1).is_empty());
        assert!(queue.is_stuck(Duration::ZERO));
        assert!(!queue.is_stuck(Duration::from_secs(3_600)));
        drop(hanging);
        assert!(queue.next(0).is_empty());
        assert!(!queue.is_stuck(Duration::ZERO));
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
        assert_eq!(ids(&queue.next(0)), [0, 1]);
        assert_eq!(ids(&queue.next(0)), [2]);
        for id in 0..=u8::try_from(MOST_TOGETHER).unwrap() {
            let (waiting, its_told) = waiting(id, 0);
            queue.join(waiting);
            told.push(its_told);
        }
        assert_eq!(queue.next(0).len(), MOST_TOGETHER);
        assert_eq!(queue.next(0).len(), 1);
    }

    #[test]
    fn who_gives_up_in_the_queue_was_never_sent_and_is_not_kept() {
        let queue = Queue::default();
        let ((first, first_told), (second, second_told)) = (waiting(1, 0), waiting(2, 0));
        let (change, late) = (Arc::clone(&first.change), Arc::clone(&second.change));
        queue.join(first);
        let taken = queue.next(0);
        queue.join(second);
        let is_unchanged = |refused: Refused| refused.into_cause().to_string().contains("earlier");
        assert!(
            !queue
                .leave(&change, first_told)
                .map(drop)
                .is_err_and(is_unchanged)
        );
        assert!(
            queue
                .leave(&late, second_told)
                .map(drop)
                .is_err_and(is_unchanged)
        );
        let (third, third_told) = waiting(3, 0);
        queue.join(third);
        assert_eq!(queue.0.lock().waiting.len(), 1);
        drop((taken, third_told));
    }

    #[test]
    fn what_a_task_tells_at_the_last_moment_is_told() {
        let queue = Queue::default();
        let (waiting, told) = waiting(1, 0);
        let change = Arc::clone(&waiting.change);
        queue.join(waiting);
        let taken = queue.next(0).pop().unwrap();
        drop(taken.tell.send(Told::Rows(Vec::new())));
        assert!(matches!(queue.leave(&change, told), Ok(Told::Rows(_))));
    }
}
