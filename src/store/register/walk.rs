//! Walking through all cells, page by page.

use super::first_cell::FIRST;
use super::record::Held;
use super::store::Access;
use super::{Cursor, Page, Register};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::record::Stored;

const PAGE: usize = 200;

/// One cell's record, or what is wrong with it.
pub(super) struct Walked {
    pub(super) stored: Result<Option<Stored>>,
    /// By the server's clock, when the cell was read.
    pub(super) now: Timestamp,
}

/// All cells, one page after the other. Ends after an error of the register.
pub(super) struct Walk<R> {
    access: Access<R>,
    /// Where the next page begins; `None` is the first one.
    from: Option<Cursor>,
    is_over: bool,
}

impl<R: Register> Walk<R> {
    pub(super) fn new(access: Access<R>) -> Self {
        Self {
            access,
            from: None,
            is_over: false,
        }
    }
}

impl<R: Register> Iterator for Walk<R> {
    type Item = Result<Vec<Walked>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let page = self.access.page(self.from.take(), PAGE);
        self.is_over = true;
        Some(page.map(
            |Page {
                 values,
                 next,
                 now_ms,
             }| {
                self.is_over = next.is_none();
                self.from = next;
                let records = values.iter().filter(|(id, _)| *id != FIRST);
                let walked = records.map(|(id, value)| Walked {
                    stored: Held::of(value, &id.0).map(|held| held.stored),
                    now: Timestamp(now_ms),
                });
                walked.collect()
            },
        ))
    }
}
