//! The books in a redb database, beside an engine with a folder of its own.

use std::path::Path;
use std::sync::Arc;

use onceward::{Builder, Guard};
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};

use super::books::{ACCOUNTS, Books, Transfer, reply};
use super::fate::{Fate, Moment, Random};
use super::worker::{Bank, Made};

const BALANCES: TableDefinition<'_, u64, i64> = TableDefinition::new("balances");
const JOURNAL: TableDefinition<'_, u64, u64> = TableDefinition::new("journal");

#[derive(Clone)]
pub(super) struct InRedb(Arc<Database>);

impl InRedb {
    pub(super) fn open(folder: &Path) -> Self {
        let database = Database::create(folder.join("ledger.redb")).unwrap();
        Self(Arc::new(database))
    }

    pub(super) fn outcomes(&self, builder: Builder) -> Builder {
        builder.outcomes_in(Arc::clone(&self.0))
    }

    pub(super) fn books(&self) -> Books {
        let transaction = self.0.begin_read().unwrap();
        let balances = transaction.open_table(BALANCES).unwrap();
        let balance = |account| balances.get(account).unwrap().map_or(0, |row| row.value());
        let journal = transaction.open_table(JOURNAL).unwrap();
        let rows = journal.iter().unwrap().map(Result::unwrap);
        Books {
            balances: (0..ACCOUNTS).map(balance).collect(),
            journal: rows
                .map(|(row, number)| (row.value(), number.value()))
                .collect(),
        }
    }
}

/// Makes the transfer in a transaction; gives its row in the journal.
fn transferred(transaction: &WriteTransaction, transfer: Transfer) -> u64 {
    let mut balances = transaction.open_table(BALANCES).unwrap();
    for (account, amount) in transfer.entries() {
        let balance = balances.get(account).unwrap().map_or(0, |row| row.value());
        balances.insert(account, balance + amount).unwrap();
    }
    let mut journal = transaction.open_table(JOURNAL).unwrap();
    let row = journal.len().unwrap();
    journal.insert(row, transfer.number).unwrap();
    row
}

impl Bank for InRedb {
    fn make(&mut self, transfer: Transfer, guard: Guard, fate: Fate, random: &mut Random) -> Made {
        let transaction = self.0.begin_write().unwrap();
        let reply = reply(transferred(&transaction, transfer));
        fate.meets(Moment::BeforeCompletion, random);
        let uncommitted = match guard.complete_in(&transaction, reply.clone()) {
            Ok(uncommitted) => uncommitted,
            Err(refused) => {
                // Whoever ignores the error must do no harm.
                transaction.commit().unwrap_err();
                return Made::refused(refused);
            }
        };
        fate.meets(Moment::BeforeCommit, random);
        fate.meets(Moment::DuringCommit, random);
        transaction.commit().unwrap();
        fate.meets(Moment::BeforeConfirmation, random);
        if !fate.confirms() {
            return Made::Unconfirmed;
        }
        uncommitted.confirm().unwrap();
        fate.meets(Moment::AfterConfirmation, random);
        Made::Confirmed(reply)
    }
}
