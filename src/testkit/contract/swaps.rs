//! Loads and swaps.

use std::sync::Arc;

use tokio::sync::Barrier;

use super::ground::{Ground, Handle, some_value, value};
use crate::store::register::{RecordId, Register, Swapped, Value, Version};
use crate::testkit::random;

const HIGHEST_BIT: u64 = 1 << 63;
/// The first whole number that a 64-bit float can't hold.
const PAST_FLOATS: u64 = (1 << 53) + 1;
const MIB: usize = 1 << 20;

pub(super) async fn what_was_never_written_is_not_there<R: Register>(ground: &Ground<'_, R>) {
    let handle = ground.handle().await;
    let id = ground.id();
    handle.has(id, None).await;
    let nobodys = Version::from_bits(random::number());
    handle.fail_to_put(id, Some(nobodys), None).await;
    handle
        .fail_to_put(id, Some(Version::from_bits(0)), None)
        .await;
    handle.put(id, None, &some_value("first")).await;
}

pub(super) async fn a_value_comes_back_as_it_was_written<R: Register>(ground: &Ground<'_, R>) {
    let (handle, other) = (ground.handle().await, ground.handle().await);
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let large: Vec<u8> = every_byte.iter().copied().cycle().take(MIB).collect();
    let all_bytes = [&[][..], &[0], b"'\\\"%s;--", &every_byte, &large];
    let versions = [0, 1, u64::MAX, HIGHEST_BIT, HIGHEST_BIT - 1, PAST_FLOATS];
    for (bytes, version) in all_bytes.iter().cycle().zip(versions) {
        let id = ground.id();
        let written = value(version, bytes);
        handle.put(id, None, &written).await;
        other.has(id, Some(&written)).await;
        other.fail_to_put(id, None, Some(&written)).await;
        let next = value(version ^ HIGHEST_BIT, bytes);
        other.put(id, Some(&written), &next).await;
        handle.has(id, Some(&next)).await;
    }
}

pub(super) async fn a_cell_that_is_there_is_not_made_again<R: Register>(ground: &Ground<'_, R>) {
    let (handle, other) = (ground.handle().await, ground.handle().await);
    let id = ground.id();
    let written = some_value("written");
    handle.put(id, None, &written).await;
    handle.fail_to_put(id, None, Some(&written)).await;
    other.fail_to_put(id, None, Some(&written)).await;
}

pub(super) async fn the_version_that_is_there_is_replaced<R: Register>(ground: &Ground<'_, R>) {
    let handles = [ground.handle().await, ground.handle().await];
    let id = ground.id();
    let mut there = some_value("0");
    handles[0].put(id, None, &there).await;
    for round in 1..10 {
        let next = some_value(round.to_string());
        handles[round % 2].put(id, Some(&there), &next).await;
        handles[(round + 1) % 2].has(id, Some(&next)).await;
        // What was replaced isn't expected with success again.
        let old = Some(there.version);
        handles[round % 2].fail_to_put(id, old, Some(&next)).await;
        there = next;
    }
}

pub(super) async fn another_version_than_the_expected_one_stays<R: Register>(
    ground: &Ground<'_, R>,
) {
    let handle = ground.handle().await;
    let versions = [0, 1, HIGHEST_BIT, u64::MAX, random::number()];
    for version in versions {
        let id = ground.id();
        let written = value(version, "written");
        handle.put(id, None, &written).await;
        for bit in [0, 31, 32, 52, 53, 62, 63] {
            let other = Version::from_bits(version ^ (1 << bit));
            handle.fail_to_put(id, Some(other), Some(&written)).await;
        }
    }
}

pub(super) async fn of_swaps_at_once_one_is_made<R: Register>(ground: &Ground<'_, R>) {
    const WRITERS: usize = 8;
    const ROUNDS: usize = 25;
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        writers.push(Arc::new(ground.handle().await));
    }
    let id = ground.id();
    let mut there = None;
    for round in 0..ROUNDS {
        let expected = there.as_ref().map(|value: &Value| value.version);
        let made = at_once(&writers, id, expected).await;
        let winners = made.iter().filter(|(_, found)| found.is_none());
        let winners: Vec<&Value> = winners.map(|(new, _)| new).collect();
        let &[winner] = &winners[..] else {
            panic!(
                "of {WRITERS} swaps at once {} were made in round {round}",
                winners.len()
            );
        };
        for found in made.iter().filter_map(|(_, found)| found.as_ref()) {
            assert!(
                found.as_ref() == Some(winner),
                "a swap that was too late is shown {found:?} where {winner:?} is"
            );
        }
        writers[round % WRITERS].has(id, Some(winner)).await;
        there = Some(winner.clone());
    }
}

/// Swaps by all writers, and what each of them was shown; `None` if it was made.
async fn at_once<R: Register>(
    writers: &[Arc<Handle<R>>],
    id: RecordId,
    expected: Option<Version>,
) -> Vec<(Value, Option<Option<Value>>)> {
    let start = Arc::new(Barrier::new(writers.len()));
    let swaps: Vec<_> = writers
        .iter()
        .enumerate()
        .map(|(number, writer)| {
            let (writer, start) = (Arc::clone(writer), Arc::clone(&start));
            let new = some_value(number.to_string());
            tokio::spawn(async move {
                start.wait().await;
                match writer.swap(id, expected, &new, writer.later_ms).await {
                    Swapped::Done { .. } => (new, None),
                    Swapped::Mismatch(found) => (new, Some(found.value)),
                }
            })
        })
        .collect();
    let mut made = Vec::new();
    for swap in swaps {
        made.push(swap.await.unwrap());
    }
    made
}

pub(super) async fn ids_that_differ_in_one_bit_are_two_cells<R: Register>(ground: &Ground<'_, R>) {
    let handle = ground.handle().await;
    let id = ground.id();
    let written = some_value("written");
    handle.put(id, None, &written).await;
    for (byte, bit) in [(0, 7), (0, 0), (7, 7), (8, 0), (15, 3), (31, 7), (31, 0)] {
        let mut bytes = *id.as_bytes();
        bytes[byte] ^= 1 << bit;
        let near = ground.uses(RecordId::from_bytes(bytes));
        handle.has(near, None).await;
        handle.put(near, None, &some_value("near")).await;
    }
    handle.has(id, Some(&written)).await;
}
