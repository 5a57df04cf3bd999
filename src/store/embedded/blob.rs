//! Long runs of bytes in a redb file: cut into rows, checked as a whole.

use redb::{ReadableTable, Table};

use crate::error::{Error, ErrorKind, Result};

/// A row's value that makes a leaf of 16 of redb's pages.
const ROW_BYTES: usize = 16 * 4_096 - 16;
/// Rows of one run have the same upper half; row 0 is the run's hash.
const ROW_BITS: u32 = 32;

/// Which run of a table's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Run {
    Filter = 1,
    Fences = 2,
    Attempts = 3,
}

impl Run {
    fn first_row(self) -> u64 {
        (self as u64) << ROW_BITS
    }
}

/// Writes a run in place of the one that was there.
pub(super) fn write(
    table: &mut Table<'_, u64, &'static [u8]>,
    run: Run,
    bytes: &[u8],
) -> Result<(), redb::Error> {
    let first = run.first_row();
    let hash = blake3::hash(bytes);
    let mut next = first;
    let mut put = |bytes: &[u8]| -> Result<(), redb::Error> {
        table.insert(next, bytes)?;
        next += 1;
        Ok(())
    };
    put(hash.as_bytes())?;
    for row in bytes.chunks(ROW_BYTES) {
        put(row)?;
    }
    table.retain_in(next..first + (1 << ROW_BITS), |_, _| false)?;
    Ok(())
}

/// The bytes of a run and whether they are what was written; `None` if there is no such run.
pub(super) fn read(
    table: &impl ReadableTable<u64, &'static [u8]>,
    run: Run,
) -> Result<Option<(Vec<u8>, bool)>, redb::Error> {
    let first = run.first_row();
    let Some(hash) = table.get(first)?.map(|row| row.value().to_vec()) else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    for row in table.range(first + 1..first + (1 << ROW_BITS))? {
        bytes.extend_from_slice(row?.1.value());
    }
    let is_sound = blake3::hash(&bytes).as_bytes()[..] == hash[..];
    Ok(Some((bytes, is_sound)))
}

/// Refuses a run that isn't there or isn't what was written.
pub(super) fn sound(run: Option<(Vec<u8>, bool)>, what: &str) -> Result<Vec<u8>> {
    match run {
        Some((bytes, true)) => Ok(bytes),
        _ => Err(Error::new(
            ErrorKind::Corrupt,
            format!("{what} is missing or damaged; restore the folder from a backup"),
        )),
    }
}
