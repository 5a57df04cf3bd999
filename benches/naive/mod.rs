//! The baseline: one redb table keyed by digest, one durable commit per operation.

use std::path::Path;

use onceward::{Key, Reply};
use redb::{Database, ReadableTable, TableDefinition};

const RECORDS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("records");

pub(crate) struct Naive {
    database: Database,
}

impl Naive {
    pub(crate) fn open(path: &Path) -> Self {
        Self {
            database: Database::create(path).expect("a new database"),
        }
    }

    /// Takes the key if it is free.
    pub(crate) fn begin(&self, key: &Key) -> bool {
        let transaction = self.database.begin_write().expect("a transaction");
        {
            let mut records = transaction.open_table(RECORDS).expect("a table");
            let digest = digest(key);
            if records.get(&digest).expect("a read").is_some() {
                return false;
            }
            let record = [0; 128];
            records.insert(&digest, &record[..]).expect("an insertion");
        }
        transaction.commit().expect("a commit");
        true
    }

    pub(crate) fn complete(&self, key: &Key, reply: &Reply) {
        let transaction = self.database.begin_write().expect("a transaction");
        let mut record = vec![1; 128];
        record.extend_from_slice(reply.body());
        transaction
            .open_table(RECORDS)
            .expect("a table")
            .insert(&digest(key), &record[..])
            .expect("an insertion");
        transaction.commit().expect("a commit");
    }
}

fn digest(key: &Key) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.scope().unwrap_or_default().as_bytes());
    hasher.update(b"\n");
    hasher.update(key.key().as_bytes());
    hasher.finalize().into()
}
