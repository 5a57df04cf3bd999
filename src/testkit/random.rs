//! Names that no other run has.

use crate::store::register::RecordId;

fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

pub(super) fn number() -> u64 {
    u64::from_le_bytes(bytes())
}

pub(super) fn id() -> RecordId {
    RecordId::from_bytes(bytes())
}

/// A scope that no other scenario's keys are in.
pub(super) fn scope() -> String {
    format!("testkit {:016x}", number())
}
