//! Scans.

use std::collections::HashMap;

use super::ground::{Ground, Handle, some_value};
use crate::store::register::{RecordId, Register, Value};
use crate::testkit::random;

const CELLS: usize = 24;
/// So many pages no database of the tests' own has.
const MOST_PAGES: usize = 100_000;

pub(super) async fn a_scan_has_each_cell_and_ends<R: Register>(ground: &Ground<'_, R>) {
    let handle = ground.handle().await;
    let mut written = Vec::new();
    for number in 0..CELLS {
        let id = ground.uses(scattered(number));
        let value = some_value(number.to_string());
        handle.put(id, None, &value).await;
        written.push((id, value));
    }
    for most in [1, 2, 5, CELLS, 1_000] {
        let found = everything(&handle, most).await;
        for (id, value) in &written {
            let Some(scanned) = found.get(id) else {
                panic!("a cell is on none of the pages of {most}");
            };
            assert!(
                scanned == value,
                "a page has {scanned:?} where {value:?} is"
            );
        }
    }
}

/// Where cells have an order, some are the first ones of all and some the last.
fn scattered(number: usize) -> RecordId {
    let mut bytes = *random::id().as_bytes();
    match number % 3 {
        0 => bytes[..8].fill(0),
        1 => bytes[..8].fill(u8::MAX),
        _ => (),
    }
    RecordId::from_bytes(bytes)
}

async fn everything<R: Register>(handle: &Handle<R>, most: usize) -> HashMap<RecordId, Value> {
    let mut found = HashMap::new();
    let mut from = None;
    for _ in 0..MOST_PAGES {
        let page = handle.scan(from, most).await;
        found.extend(page.values);
        from = page.next;
        if from.is_none() {
            return found;
        }
    }
    panic!("a scan doesn't end: there are more than {MOST_PAGES} pages of {most}");
}
