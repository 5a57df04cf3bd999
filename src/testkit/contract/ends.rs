//! The server's clock, and what ends by it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::ground::{Ground, Handle, some_value};
use crate::store::register::{RecordId, Register, Swapped};

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 86_400_000;
/// The years 2020 and 2100.
const PLAUSIBLE_MS: std::ops::Range<u64> = 1_577_836_800_000..4_102_444_800_000;
/// By how much the clocks of one server's machines, if it has several, may differ.
const STEP_BACK_MS: u64 = 1_000;
/// How long a clock may stand still.
const STANDSTILL: Duration = Duration::from_secs(2);
const LOOKS_EVERY: Duration = Duration::from_millis(2);

pub(super) async fn the_clock_is_the_servers_and_runs_forwards<R: Register>(
    ground: &Ground<'_, R>,
) {
    let handles = [ground.handle().await, ground.handle().await];
    let id = ground.id();
    let first = handles[0].load(id).await.now_ms;
    assert!(
        PLAUSIBLE_MS.contains(&first),
        "now_ms is {first}, which can't be the milliseconds since 1970"
    );
    let mut latest = first;
    for round in 0..10 {
        for now_ms in every_answer(&handles[round % 2], id).await {
            assert!(
                now_ms.saturating_add(STEP_BACK_MS) >= latest,
                "now_ms runs backwards: {now_ms} after {latest}"
            );
            latest = latest.max(now_ms);
        }
    }
    let since = Instant::now();
    while handles[0].load(id).await.now_ms <= first {
        assert!(
            since.elapsed() < STANDSTILL,
            "now_ms stands still: {first} for {STANDSTILL:?}"
        );
        sleep(LOOKS_EVERY).await;
    }
    let (one, other) = (
        handles[0].load(id).await.now_ms,
        handles[1].load(id).await.now_ms,
    );
    assert!(
        one.abs_diff(other) < MINUTE_MS,
        "two handles have different clocks: {one} and {other}"
    );
}

/// The time as a load, a swap, a mismatch and a page tell it, one after the other.
async fn every_answer<R: Register>(handle: &Handle<R>, id: RecordId) -> [u64; 4] {
    let now_ms = |swapped| match swapped {
        Swapped::Done { now_ms } => now_ms,
        Swapped::Mismatch(found) => found.now_ms,
    };
    let loaded = handle.load(id).await;
    let there = loaded.value.map(|value| value.version);
    let new = some_value("clock");
    let made = handle.swap(id, there, &new, handle.later_ms).await;
    let refused = handle.swap(id, None, &new, handle.later_ms).await;
    let page = handle.scan(None, 1).await;
    [loaded.now_ms, now_ms(made), now_ms(refused), page.now_ms]
}

pub(super) async fn a_cell_that_has_ended_is_gone_or_as_it_was<R: Register>(
    ground: &Ground<'_, R>,
) {
    let (handle, other) = (ground.handle().await, ground.handle().await);
    let now_ms = handle.load(ground.id()).await.now_ms;
    let mut ended = Vec::new();
    for ends_at_ms in [1, now_ms - DAY_MS, now_ms - 1, now_ms] {
        let (id, written) = (ground.id(), some_value("ended"));
        handle.put_until(id, None, &written, ends_at_ms).await;
        other.has_or_lost(id, &written).await;
        ended.push((id, written));
    }
    handle.sweep_all().await;
    for (id, written) in ended {
        let there = other.has_or_lost(id, &written).await;
        // One that has ended may be swapped as any other, and begins anew.
        let next = some_value("next");
        let swapped = handle.swap(id, there, &next, handle.later_ms).await;
        if let Swapped::Mismatch(found) = swapped {
            assert!(
                there.is_some() && found.value.is_none(),
                "a cell that has ended can't be replaced: {:?} is there",
                found.value
            );
            handle.put(id, None, &next).await;
        }
        handle.sweep_all().await;
        other.has(id, Some(&next)).await;
    }
}

pub(super) async fn a_sweep_leaves_what_has_not_ended<R: Register>(ground: &Ground<'_, R>) {
    let handle = ground.handle().await;
    let now_ms = handle.load(ground.id()).await.now_ms;
    let mut live = Vec::new();
    for ends_at_ms in [now_ms + MINUTE_MS, now_ms + 3_650 * DAY_MS, u64::MAX] {
        let (made, replaced) = (ground.id(), ground.id());
        let (before, written) = (some_value("before"), some_value("live"));
        handle.put_until(made, None, &written, ends_at_ms).await;
        handle.put(replaced, None, &before).await;
        handle
            .put_until(replaced, Some(&before), &written, ends_at_ms)
            .await;
        live.extend([(made, written.clone()), (replaced, written)]);
    }
    let (ended, written) = (ground.id(), some_value("ended"));
    handle.put_until(ended, None, &written, now_ms - 1).await;
    handle.sweep_all().await;
    for (id, written) in live {
        handle.has(id, Some(&written)).await;
    }
    handle.has_or_lost(ended, &written).await;
}

/// A database that ends cells by itself has to forget the end that was set before.
pub(super) async fn a_swap_replaces_the_end<R: Register>(ground: &Ground<'_, R>) {
    const SOON_MS: u64 = 500;
    const SOON: Duration = Duration::from_millis(SOON_MS);
    let handle = ground.handle().await;
    let now_ms = handle.load(ground.id()).await.now_ms;
    let soon_ms = now_ms + SOON_MS;
    let mut live = Vec::new();
    for ends_at_ms in [now_ms + MINUTE_MS, u64::MAX] {
        let (id, first, written) = (ground.id(), some_value("soon"), some_value("later"));
        handle.put_until(id, None, &first, soon_ms).await;
        let version = Some(first.version);
        let swapped = handle.swap(id, version, &written, ends_at_ms).await;
        if let Swapped::Mismatch(found) = swapped {
            let is_slow = found.now_ms >= soon_ms && found.value.is_none();
            assert!(
                is_slow,
                "a cell was lost or altered before its end: {:?} is there",
                found.value
            );
            handle.put_until(id, None, &written, ends_at_ms).await;
        }
        live.push((id, written));
    }
    let since = Instant::now();
    while handle.load(live[0].0).await.now_ms <= soon_ms && since.elapsed() < 2 * SOON {
        sleep(LOOKS_EVERY).await;
    }
    handle.sweep_all().await;
    for (id, written) in live {
        handle.has(id, Some(&written)).await;
    }
}

pub(super) async fn sweeps_at_once_come_to_an_end<R: Register>(ground: &Ground<'_, R>) {
    const SWEEPERS: usize = 4;
    const CELLS: usize = 40;
    let handle = ground.handle().await;
    for _ in 0..CELLS {
        let ended = some_value("ended");
        handle
            .put_until(ground.id(), None, &ended, handle.ended_ms)
            .await;
    }
    let mut sweepers = Vec::new();
    for _ in 0..SWEEPERS {
        let handle = Arc::new(ground.handle().await);
        sweepers.push(tokio::spawn(async move { handle.sweep_all().await }));
    }
    for sweeper in sweepers {
        sweeper.await.unwrap();
    }
}
