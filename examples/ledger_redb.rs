//! A transfer between two accounts in redb that commits with its reply: it is made once, whenever the program dies.
//!
//! ```sh
//! cargo run --features redb --example ledger_redb            # in a temporary folder
//! cargo run --features redb --example ledger_redb -- FOLDER  # run it again: everything is replayed
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onceward::{Engine, Fingerprint, Guard, Key, Outcome, Reply, Uncommitted};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const BALANCES: TableDefinition<'_, &str, i64> = TableDefinition::new("balances");

struct Ledger {
    database: Arc<Database>,
    engine: Engine,
}

impl Ledger {
    /// The database is the program's own; the engine has its records in a folder, and its outcomes in the database.
    fn open(folder: &Path) -> Result<Self> {
        let database = Arc::new(Database::create(folder.join("ledger.redb"))?);
        let builder = Engine::builder().outcomes_in(Arc::clone(&database));
        let engine = builder.open(folder.join("idempotency"))?;
        Ok(Self { database, engine })
    }

    /// Moves an amount, once for each key: a retry gets the first answer.
    fn transfer(&self, key: &str, from: &str, to: &str, amount: i64) -> Result<Reply> {
        let request = Fingerprint::of(format!("{amount} from {from} to {to}"));
        let guard = match self.engine.begin(&Key::new("ledger", key)?, &request)? {
            Outcome::Proceed(guard) => guard,
            Outcome::Replay(reply) => return Ok(reply),
            Outcome::Conflict(_) => return Ok(Reply::new(422, "the key was used otherwise")),
            Outcome::InFlight(_) => return Ok(Reply::new(409, "still running")),
        };
        let (uncommitted, reply) = self.commit(guard, from, to, amount)?;
        // If the program dies here, the next open or begin finds what was committed.
        uncommitted.confirm()?;
        Ok(reply)
    }

    /// Moves an amount and keeps the reply: both or neither.
    fn commit(
        &self,
        guard: Guard,
        from: &str,
        to: &str,
        amount: i64,
    ) -> Result<(Uncommitted, Reply)> {
        let transaction = self.database.begin_write()?;
        let left = add(&transaction, from, -amount)?;
        add(&transaction, to, amount)?;
        let reply = Reply::new(201, format!("moved {amount}, {from} has {left} left"));
        let uncommitted = guard.complete_in(&transaction, reply.clone())?;
        transaction.commit()?;
        Ok((uncommitted, reply))
    }

    /// As if the program had died between the commit and the confirmation.
    fn transfer_unconfirmed(&self, key: &str, from: &str, to: &str, amount: i64) -> Result<()> {
        let request = Fingerprint::of(format!("{amount} from {from} to {to}"));
        if let Outcome::Proceed(guard) = self.engine.begin(&Key::new("ledger", key)?, &request)? {
            drop(self.commit(guard, from, to, amount)?);
        }
        Ok(())
    }

    fn balance(&self, account: &str) -> Result<i64> {
        let balances = self.database.begin_read()?.open_table(BALANCES)?;
        Ok(balances.get(account)?.map_or(0, |row| row.value()))
    }
}

/// Changes a balance; gives the new one.
fn add(transaction: &WriteTransaction, account: &str, amount: i64) -> Result<i64> {
    let mut balances = transaction.open_table(BALANCES)?;
    let balance = balances.get(account)?.map_or(0, |row| row.value()) + amount;
    balances.insert(account, balance)?;
    Ok(balance)
}

fn main() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = given.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(folder)?;

    let ledger = Ledger::open(folder)?;
    for attempt in ["first", "again"] {
        let reply = ledger.transfer("transfer-1", "ada", "bob", 30)?;
        println!("transfer-1, {attempt}: {}", text(&reply));
    }
    ledger.transfer_unconfirmed("transfer-2", "ada", "bob", 12)?;
    println!("transfer-2 was committed, and the engine not told");
    drop(ledger);

    let ledger = Ledger::open(folder)?;
    let reply = ledger.transfer("transfer-2", "ada", "bob", 12)?;
    println!("transfer-2, again: {}", text(&reply));
    let (ada, bob) = (ledger.balance("ada")?, ledger.balance("bob")?);
    println!("ada has {ada}, bob has {bob}");
    assert_eq!((ada, bob), (-42, 42), "each transfer was made once");
    Ok(ledger.engine.close()?)
}

fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(reply.body()).into_owned()
}
