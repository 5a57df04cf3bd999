//! The books in a PostgreSQL database.

use std::fmt::Display;

use onceward::Guard;
use tokio::runtime::{self, Runtime};
use tokio_postgres::{Client, Error, NoTls, Transaction};

use super::books::{Books, Transfer, reply};
use super::fate::{Fate, Moment, Random};
use super::worker::{Bank, Made};
use support::start::postgres::PostgresServer;

/// A connection, and the runtime that it lives in.
pub(super) struct InPostgres {
    client: Client,
    runtime: Runtime,
}

pub(super) fn make_tables(server: &PostgresServer) {
    server.query(
        "CREATE TABLE balances (account bigint PRIMARY KEY, balance bigint NOT NULL);
         CREATE TABLE journal (row bigserial, transfer bigint NOT NULL);
         INSERT INTO balances SELECT account, 0 FROM generate_series(0, 11) AS account",
    );
}

pub(super) fn books(server: &PostgresServer) -> Books {
    let numbers = |sql: &str| -> Vec<i64> {
        let list = server.query(&format!("SELECT array_to_string(ARRAY({sql}), ' ')"));
        let words = list.split_whitespace();
        words.map(|word| word.parse().unwrap()).collect()
    };
    let rows = numbers("SELECT row FROM journal ORDER BY row");
    let transfers = numbers("SELECT transfer FROM journal ORDER BY row");
    let pairs = rows.into_iter().map(i64::cast_unsigned);
    Books {
        balances: numbers("SELECT balance FROM balances ORDER BY account"),
        journal: pairs
            .zip(transfers.into_iter().map(i64::cast_unsigned))
            .collect(),
    }
}

/// Makes the transfer in a transaction; gives its row in the journal.
async fn transferred(transaction: &Transaction<'_>, transfer: Transfer) -> Result<u64, Error> {
    let change = "UPDATE balances SET balance = balance + $2 WHERE account = $1";
    for (account, amount) in transfer.entries() {
        let account = account.cast_signed();
        transaction.execute(change, &[&account, &amount]).await?;
    }
    let note = "INSERT INTO journal (transfer) VALUES ($1) RETURNING row";
    let row = transaction
        .query_one(note, &[&transfer.number.cast_signed()])
        .await?;
    Ok(row.get::<_, i64>(0).cast_unsigned())
}

impl InPostgres {
    pub(super) fn open(url: &str) -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.unwrap();
        let connected = runtime.block_on(tokio_postgres::connect(url, NoTls));
        let (client, connection) = connected.unwrap();
        runtime.spawn(connection);
        Self { client, runtime }
    }
}

impl Bank for InPostgres {
    fn make(&mut self, transfer: Transfer, guard: Guard, fate: Fate, random: &mut Random) -> Made {
        let Self { client, runtime } = self;
        runtime.block_on(make(client, transfer, guard, fate, random))
    }
}

async fn make(
    client: &mut Client,
    transfer: Transfer,
    guard: Guard,
    fate: Fate,
    random: &mut Random,
) -> Made {
    let transaction = client.transaction().await.unwrap();
    let row = match transferred(&transaction, transfer).await {
        Ok(row) => row,
        Err(error) => return failed(&error),
    };
    let reply = reply(row);
    fate.meets(Moment::BeforeCompletion, random);
    let completed = guard.complete_in_async(&transaction, reply.clone()).await;
    let uncommitted = match completed {
        Ok(uncommitted) => uncommitted,
        Err(refused) => {
            // Whoever ignores the error must do no harm. PostgreSQL rolls back, and says so in words that nobody reads.
            transaction.commit().await.unwrap();
            return Made::refused(refused);
        }
    };
    fate.meets(Moment::BeforeCommit, random);
    fate.meets(Moment::DuringCommit, random);
    if let Err(error) = transaction.commit().await {
        return failed(&error);
    }
    fate.meets(Moment::BeforeConfirmation, random);
    if !fate.confirms() {
        return Made::Unconfirmed;
    }
    uncommitted.confirm_async().await.unwrap();
    fate.meets(Moment::AfterConfirmation, random);
    Made::Confirmed(reply)
}

fn failed(error: &impl Display) -> Made {
    Made::Failed(error.to_string())
}
