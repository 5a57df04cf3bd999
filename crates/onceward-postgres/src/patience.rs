//! Changes that wait for a row which somebody has locked: each row has one at a time, and all have half of the connections, so that
//! there are some left for everybody else.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use onceward::register::{RecordId, Refused};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// What part of the connections may wait so.
const PART: usize = 2;

pub(super) struct Patience {
    most: Arc<Semaphore>,
    rows: Mutex<HashMap<RecordId, Arc<Semaphore>>>,
}

/// A turn that is waited for, or has come; dropped, it is the next one's.
struct Turn {
    patience: Arc<Patience>,
    id: RecordId,
    row: Option<Arc<Semaphore>>,
}

/// A turn that has come.
struct Granted {
    _most: OwnedSemaphorePermit,
    _row: OwnedSemaphorePermit,
    _turn: Turn,
}

impl Patience {
    pub(super) fn new(connections: usize) -> Self {
        Self {
            most: Arc::new(Semaphore::new((connections / PART).max(1))),
            rows: Mutex::default(),
        }
    }

    /// Whether somebody waits for that row already.
    pub(super) fn knows(&self, id: RecordId) -> bool {
        self.rows.lock().contains_key(&id)
    }

    /// Makes a change in its turn, which is over when the server has answered, whether or not
    /// somebody still waits for that.
    pub(super) async fn in_turn<T: Send + 'static>(
        self: &Arc<Self>,
        id: RecordId,
        until: Instant,
        change: impl Future<Output = Result<T, Refused>> + Send + 'static,
    ) -> Result<T, Refused> {
        let turn = timeout_at(until, self.turn(id)).await;
        let turn = turn
            .map_err(|_| Refused::unchanged("others that change the row had to be waited for"))?;
        let made = tokio::spawn(async move {
            let made = change.await;
            drop(turn);
            made
        });
        let made = timeout_at(until, made).await;
        match made {
            Ok(made) => made.unwrap_or_else(|_| Err(given_up())),
            Err(_) => Err(Refused::unknown("the server didn't answer in time")),
        }
    }

    /// Waits for a turn at the row.
    async fn turn(self: &Arc<Self>, id: RecordId) -> Granted {
        let row = Arc::clone(self.rows.lock().entry(id).or_insert_with(one));
        let turn = Turn {
            patience: Arc::clone(self),
            id,
            row: Some(Arc::clone(&row)),
        };
        let row = row.acquire_owned().await;
        let most = Arc::clone(&self.most).acquire_owned().await;
        Granted {
            _most: most.expect("it is never closed"),
            _row: row.expect("it is never closed"),
            _turn: turn,
        }
    }
}

/// What may have become of a change whose task is gone, with its runtime say.
pub(super) fn given_up() -> Refused {
    Refused::unknown("the change was given up under way")
}

fn one() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut rows = self.patience.rows.lock();
        drop(self.row.take());
        // The map's own is the last one.
        if rows
            .get(&self.id)
            .is_some_and(|row| Arc::strong_count(row) == 1)
        {
            rows.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn id(number: u8) -> RecordId {
        RecordId::from_bytes([number; 32])
    }

    #[test]
    fn a_row_has_one_turn_at_a_time_and_all_rows_have_half_of_the_connections() {
        let patience = Arc::new(Patience::new(4));
        let first = patience.turn(id(1)).now_or_never().unwrap();
        let mut second = Box::pin(patience.turn(id(1)));
        assert!((&mut second).now_or_never().is_none());
        let other = patience.turn(id(2)).now_or_never().unwrap();
        assert!(patience.turn(id(3)).now_or_never().is_none());
        drop(first);
        let second = second.now_or_never().unwrap();
        assert!(patience.turn(id(3)).now_or_never().is_none());
        drop(other);
        drop(patience.turn(id(3)).now_or_never().unwrap());
        drop(second);
        assert!((1..=3).all(|number| !patience.knows(id(number))));
    }

    #[test]
    fn who_gives_up_leaves_nothing_behind() {
        let patience = Arc::new(Patience::new(1));
        let first = patience.turn(id(1)).now_or_never().unwrap();
        assert!(patience.turn(id(1)).now_or_never().is_none());
        assert!(patience.turn(id(2)).now_or_never().is_none());
        assert!(patience.knows(id(1)) && !patience.knows(id(2)));
        drop(first);
        assert!(!patience.knows(id(1)));
    }
}
