//! Announcements, which a register may do without.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::ground::Ground;
use crate::store::register::{RecordId, Register};
use crate::sync::Mutex;
use crate::testkit::random;

/// As many as an engine announces at once.
const ANNOUNCED: usize = 512;
/// Who hears nothing for so long doesn't listen.
const HEARS_WITHIN: Duration = Duration::from_secs(3);
const HEARS_ALL_WITHIN: Duration = Duration::from_secs(5);
const REPEATED_EVERY: Duration = Duration::from_millis(100);

pub(super) async fn what_is_announced_is_heard<R: Register>(ground: &Ground<'_, R>) {
    let (one, other) = (ground.handle().await, ground.handle().await);
    let announced: Vec<RecordId> = (0..ANNOUNCED).map(|_| random::id()).collect();
    let missing: Arc<Mutex<HashSet<RecordId>>> =
        Arc::new(Mutex::new(announced.iter().copied().collect()));
    let not_heard = Arc::clone(&missing);
    let listener = tokio::spawn(async move {
        let heard = move |id| {
            not_heard.lock().remove(&id);
        };
        other.register.listen(heard).await;
    });
    let since = Instant::now();
    loop {
        // One that is announced before the other listens is lost.
        one.register.announce(announced.clone()).await;
        sleep(REPEATED_EVERY).await;
        let missing = missing.lock().len();
        let passed = since.elapsed();
        if missing == 0 {
            ground.note_that_it_announces();
            break;
        }
        if missing == ANNOUNCED && passed > HEARS_WITHIN {
            break;
        }
        assert!(
            passed < HEARS_ALL_WITHIN,
            "of {ANNOUNCED} ids that were announced at once, again and again, {missing} were never heard"
        );
    }
    listener.abort();
}
