//! Changes that come at once are made in one transaction, so that they share one commit and one flight to the server and back.
//!
//! A few transactions are under way at a time; what comes meanwhile waits for the next. A caller whose turn it is takes along those who
//! wait. Alone, it makes a statement of its own, without a transaction around it.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Shared;
use super::link::{Statement, Undone};
use super::register::Opaque;
use crate::store::register::{RecordId, Refused};
use crate::sync::Mutex;

/// How many transactions are under way at once.
const MOST_AT_ONCE: usize = 4;
/// How many changes one makes.
const MOST_TOGETHER: usize = 64;

/// A row that is to be put under an id, if there is none, or the expected version.
pub(super) struct Change {
    pub(super) id: RecordId,
    pub(super) expected: Option<i64>,
    pub(super) version: i64,
    pub(super) bytes: Bytes,
    pub(super) ends_at_ms: i64,
}

/// Who waits for a turn.
#[derive(Default)]
pub(super) struct Queue(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    under_way: usize,
}

struct Waiting {
    change: Arc<Change>,
    tell: oneshot::Sender<Told>,
}

enum Told {
    /// What the change's statement gave.
    Rows(Vec<Row>),
    Failed(Refused),
    /// Together it failed, and nothing was changed.
    Alone,
    Turn(Turn),
}

/// The right to one transaction. It passes to the next in line when it is dropped.
struct Turn {
    queue: Arc<Queue>,
    is_held: bool,
}

impl Shared {
    /// Makes a change, with those of others if there are any; gives what its statement gave.
    pub(super) async fn make(&self, change: Change) -> Result<Vec<Row>, Refused> {
        let change = Arc::new(change);
        let turn = match Queue::join(&self.queue, &change) {
            Joined::Now(turn) => turn,
            Joined::Later(told) => match told.await {
                Ok(Told::Rows(rows)) => return Ok(rows),
                Ok(Told::Failed(refused)) => return Err(refused),
                Ok(Told::Alone) => return self.make_alone(&change).await,
                Ok(Told::Turn(turn)) => turn,
                Err(_) => {
                    return Err(Refused::unknown(
                        "the call that made this change with its own was given up",
                    ));
                }
            },
        };
        let others = turn.take(change.id);
        if others.is_empty() {
            return self.make_alone(&change).await;
        }
        let changes: Vec<&Change> = std::iter::once(&*change)
            .chain(others.iter().map(|other| &*other.change))
            .collect();
        match self.make_together(&changes).await {
            Ok(rows) => {
                let mut rows = rows.into_iter();
                let own = rows.next().unwrap_or_default();
                for (other, rows) in others.into_iter().zip(rows) {
                    drop(other.tell.send(Told::Rows(rows)));
                }
                Ok(own)
            }
            Err(Undone::Nothing) => {
                drop(turn);
                for other in others {
                    drop(other.tell.send(Told::Alone));
                }
                self.make_alone(&change).await
            }
            Err(Undone::Unknown(error)) => {
                for other in others {
                    let refused = Refused::unknown(error.to_string());
                    drop(other.tell.send(Told::Failed(refused)));
                }
                Err(Refused::unknown(error))
            }
        }
    }

    async fn make_alone(&self, change: &Change) -> Result<Vec<Row>, Refused> {
        let columns = Columns::of(change);
        let (text, parameters) = self.statement(&columns);
        self.link.rows(&self.sql, text, &parameters).await
    }

    async fn make_together(&self, changes: &[&Change]) -> Result<Vec<Vec<Row>>, Undone> {
        let columns: Vec<_> = changes.iter().map(|change| Columns::of(change)).collect();
        // Whoever locks rows in this order waits for nobody who waits for it.
        let mut order: Vec<_> = (0..columns.len()).collect();
        order.sort_unstable_by_key(|place| changes[*place].id.as_bytes());
        let statements = order.iter().map(|place| {
            let (text, parameters) = self.statement(&columns[*place]);
            Statement { text, parameters }
        });
        let statements: Vec<_> = statements.collect();
        let rows = self.link.transaction(&self.sql, &statements).await?;
        let mut in_place: Vec<_> = order.into_iter().zip(rows).collect();
        in_place.sort_unstable_by_key(|(place, _)| *place);
        Ok(in_place.into_iter().map(|(_, rows)| rows).collect())
    }

    fn statement<'a>(&'a self, columns: &'a Columns<'_>) -> (&'a str, Vec<&'a (dyn ToSql + Sync)>) {
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
            &columns.id,
            &columns.version,
            &columns.bytes,
            &columns.ends_at_ms,
        ];
        match &columns.expected {
            None => (&self.sql.insert, parameters),
            Some(expected) => {
                parameters.push(expected);
                (&self.sql.update, parameters)
            }
        }
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

enum Joined {
    Now(Turn),
    Later(oneshot::Receiver<Told>),
}

impl Queue {
    fn join(queue: &Arc<Self>, change: &Arc<Change>) -> Joined {
        let mut state = queue.0.lock();
        if state.under_way < MOST_AT_ONCE {
            state.under_way += 1;
            return Joined::Now(Turn::of(queue));
        }
        let (tell, told) = oneshot::channel();
        state.waiting.push_back(Waiting {
            change: Arc::clone(change),
            tell,
        });
        Joined::Later(told)
    }
}

impl Turn {
    fn of(queue: &Arc<Queue>) -> Self {
        Self {
            queue: Arc::clone(queue),
            is_held: true,
        }
    }

    /// Those who go along, with other ids each: what one transaction did twice to a row couldn't be told apart.
    fn take(&self, own: RecordId) -> Vec<Waiting> {
        let mut state = self.queue.0.lock();
        let mut ids = HashSet::from([own]);
        let (mut taken, mut left) = (Vec::new(), VecDeque::new());
        while let Some(next) = state.waiting.pop_front() {
            if taken.len() + 1 < MOST_TOGETHER && ids.insert(next.change.id) {
                taken.push(next);
            } else {
                left.push_back(next);
            }
        }
        state.waiting = left;
        taken
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_held {
            return;
        }
        loop {
            let mut state = self.queue.0.lock();
            let Some(next) = state.waiting.pop_front() else {
                state.under_way -= 1;
                return;
            };
            drop(state);
            let passed_on = next.tell.send(Told::Turn(Self::of(&self.queue)));
            // If nobody is there any more, the turn is still this one's.
            let Err(Told::Turn(mut unused)) = passed_on else {
                return;
            };
            unused.is_held = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Digest;

    fn change(id: u8) -> Arc<Change> {
        Arc::new(Change {
            id: RecordId(Digest([id; 32])),
            expected: None,
            version: 1,
            bytes: Bytes::new(),
            ends_at_ms: 0,
        })
    }

    fn later(queue: &Arc<Queue>, id: u8) -> oneshot::Receiver<Told> {
        match Queue::join(queue, &change(id)) {
            Joined::Later(told) => told,
            Joined::Now(_) => panic!("there was a turn left"),
        }
    }

    fn all_turns(queue: &Arc<Queue>) -> Vec<Turn> {
        let joined = (0..MOST_AT_ONCE).map(|_| match Queue::join(queue, &change(0)) {
            Joined::Now(turn) => turn,
            Joined::Later(_) => panic!("there was no turn left"),
        });
        joined.collect()
    }

    #[test]
    fn a_turn_passes_to_the_first_in_line_who_is_still_there() {
        let queue = Arc::default();
        let mut turns = all_turns(&queue);
        let (gone, mut second, mut third) = (later(&queue, 1), later(&queue, 2), later(&queue, 3));
        drop(gone);
        drop(turns.pop());
        let Ok(Told::Turn(turn)) = second.try_recv() else {
            panic!("the second in line has no turn");
        };
        assert!(third.try_recv().is_err());
        drop(turn);
        // It was told, and goes without having looked.
        drop(third);
        drop(turns);
        assert_eq!(queue.0.lock().under_way, 0);
        drop(all_turns(&queue));
    }

    #[test]
    fn who_takes_others_along_takes_each_id_once_and_leaves_the_rest_in_line() {
        let queue = Arc::default();
        let turns = all_turns(&queue);
        let _told = [1, 2, 1, 3, 0, 2].map(|id| later(&queue, id));
        let taken = turns[0].take(change(0).id);
        let ids = |waiting: &[Waiting]| -> Vec<u8> {
            let ids = waiting
                .iter()
                .map(|waiting| waiting.change.id.as_bytes()[0]);
            ids.collect()
        };
        assert_eq!(ids(&taken), [1, 2, 3]);
        let left: Vec<_> = queue.0.lock().waiting.drain(..).collect();
        assert_eq!(ids(&left), [1, 0, 2]);
    }
}
