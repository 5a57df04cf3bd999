//! A transfer between two accounts in PostgreSQL that commits with its reply: it is made once, whoever dies when.
//!
//! The engine is on the same database, so that the row of the key is completed by the transaction itself. Any number of
//! these programs may run on as many machines.
//!
//! ```sh
//! docker run --rm --publish 5432:5432 --env POSTGRES_HOST_AUTH_METHOD=trust postgres
//! cargo run -p ledger-postgres -- postgres://postgres@localhost/postgres
//! ```

use std::error::Error;

use deadpool_postgres::{Manager, Pool};
use onceward::{Engine, Fingerprint, Key, Outcome, Reply};
use onceward_postgres::Postgres;
use tokio_postgres::{NoTls, Transaction};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
give the URL of a database:
    cargo run -p ledger-postgres -- postgres://postgres@localhost/postgres
This starts a server that is gone when you stop it:
    docker run --rm --publish 5432:5432 --env POSTGRES_HOST_AUTH_METHOD=trust postgres";

const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS balances (account text PRIMARY KEY, balance bigint NOT NULL)";
const ADD: &str = "INSERT INTO balances AS found VALUES ($1, $2) \
    ON CONFLICT (account) DO UPDATE SET balance = found.balance + $2 RETURNING balance";

struct Ledger {
    pool: Pool,
    engine: Engine,
}

impl Ledger {
    async fn open(url: &str) -> Result<Self> {
        let pool = Pool::builder(Manager::new(url.parse()?, NoTls)).build()?;
        pool.get().await?.batch_execute(TABLE).await?;
        let postgres = Postgres::builder(url).build()?;
        let engine = Engine::builder().open_on_async(postgres).await?;
        Ok(Self { pool, engine })
    }

    /// Moves an amount, once for each key: a retry gets the first answer.
    async fn transfer(&self, key: &Key, from: &str, to: &str, amount: i64) -> Result<Reply> {
        let request = Fingerprint::of(format!("{amount} from {from} to {to}"));
        let mut client = self.pool.get().await?;
        let guard = match self.engine.begin_async(key, &request).await? {
            Outcome::Proceed(guard) => guard,
            Outcome::Replay(reply) => return Ok(reply),
            Outcome::Conflict(_) => return Ok(Reply::new(422, "the key was used otherwise")),
            Outcome::InFlight(_) => return Ok(Reply::new(409, "still running")),
        };
        let transaction = client.transaction().await?;
        let left = match moved(&transaction, from, to, amount).await {
            Ok(left) => left,
            Err(error) => {
                // Nothing was done, so that a retry may have the key at once.
                transaction.rollback().await?;
                guard.release_async().await?;
                return Err(error);
            }
        };
        let reply = Reply::new(201, format!("moved {amount}, {from} has {left} left"));
        // An error here means that somebody else has the key: the transaction is rolled back as it is dropped.
        // `*`, since it is the pool's wrapper around the transaction.
        let uncommitted = guard
            .complete_in_async(&*transaction, reply.clone())
            .await?;
        transaction.commit().await?; // both or neither
        // The row is completed. This wakes those who wait for it, and counts it.
        uncommitted.confirm_async().await?;
        Ok(reply)
    }

    async fn balance(&self, account: &str) -> Result<i64> {
        let look = "SELECT coalesce(sum(balance), 0)::bigint FROM balances WHERE account = $1";
        let row = self.pool.get().await?.query_one(look, &[&account]).await?;
        Ok(row.try_get(0)?)
    }
}

/// Changes both balances; gives what the first account has left. In the order of their names, so that transfers to and fro don't
/// wait for one another.
async fn moved(transaction: &Transaction<'_>, from: &str, to: &str, amount: i64) -> Result<i64> {
    if from < to {
        let left = add(transaction, from, -amount).await?;
        add(transaction, to, amount).await?;
        return Ok(left);
    }
    add(transaction, to, amount).await?;
    add(transaction, from, -amount).await
}

/// Changes a balance; gives the new one.
async fn add(transaction: &Transaction<'_>, account: &str, amount: i64) -> Result<i64> {
    let row = transaction.query_one(ADD, &[&account, &amount]).await?;
    Ok(row.try_get(0)?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(url) = std::env::args().nth(1) else {
        println!("{USAGE}");
        std::process::exit(2);
    };
    // Two nodes, as if on two machines.
    let (one, other) = (Ledger::open(&url).await?, Ledger::open(&url).await?);
    let before = one.balance("bob").await?;
    let run = std::process::id(); // another transfer with each run of this program
    let key = Key::new("ledger", format!("transfer-{run}"))?;
    for (ledger, name) in [(&one, "one node"), (&other, "the other, again")] {
        let reply = ledger.transfer(&key, "ada", "bob", 30).await?;
        println!("{name}: {}", String::from_utf8_lossy(reply.body()));
    }
    let moved = one.balance("bob").await? - before;
    println!("bob got {moved}");
    assert_eq!(moved, 30, "the transfer was made once");
    one.engine.close_async().await?;
    Ok(other.engine.close_async().await?)
}
