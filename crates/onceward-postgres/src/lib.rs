//! A register on PostgreSQL: one row per key.
//!
//! ```no_run
//! use onceward::Engine;
//! use onceward_postgres::Postgres;
//!
//! let postgres = Postgres::builder("postgres://app@db.internal/app").build()?;
//! let engine = Engine::builder().open_on(postgres)?;
//! # Ok::<(), onceward::Error>(())
//! ```
//!
//! Nothing connects before the engine opens. It then makes the table `onceward_records`, if there is none and the user
//! may; [`Postgres::schema`] gives the SQL for migrations of one's own. Give the same database and table to all nodes
//! that are to agree, and nothing else needs to be told to them.
//!
//! # What it costs
//!
//! A new key, a replay, a completion, a renewal and a release are one statement each and one round trip. Those that
//! change something wait until the server has it on the disk; when many come at once, some of them share a transaction, and so
//! a commit. Statements are prepared, once per connection. Time is the server's, so that nodes whose clocks differ agree. Expired rows are
//! removed in batches of 1,000 that lock nothing but these rows, and pass by what another node is removing.
//!
//! Who waits for a key on another node is woken with `NOTIFY`. It is sent after the fact and for many keys at once, not
//! in the transaction of the completion, where it would make all commits of the database wait for one another.
//!
//! # What the server has to be
//!
//! - PostgreSQL 12 or later with `fsync` and `full_page_writes` on; both are on unless somebody turned them off, and
//!   [`warnings`](Postgres::warnings) says so. Where `synchronous_commit` is `off` or `local`, the register turns it on for its own
//!   connections.
//! - With a standby that may be promoted: a synchronous one (`synchronous_standby_names`). An asynchronous one lacks what
//!   was acknowledged last, and a lost grant can be granted again. List all hosts in the URL, with
//!   `target_session_attrs=read-write`.
//! - Clocks that agree, by NTP say, to within much less than a lease, among servers that take over from one another: time is that of
//!   the server that answers. One whose clock is 3 seconds ahead of the one before cuts leases short by 3 seconds. In a cluster of several
//!   writers it is the clock of whichever node a connection leads to.
//! - A log that isn't for everybody, if it has statements with their parameters (`log_min_duration_statement`, say): they hold keys and replies.
//! - Connections that last: directly, or through a pooler in session mode. In transaction mode, prepared statements,
//!   settings and `LISTEN` fail.
//! - The SQL keeps to what CockroachDB and YugabyteDB document as well (without `NOTIFY`, waiters poll). Neither was tested.
//!
//! # Errors
//!
//! What passes is tried again within the [timeout](PostgresBuilder::timeout), after pauses that
//! differ by chance: a server that can't be reached, starts (`57P03`), only reads, or whose
//! connections others have (`53300`), serialization failures (`40001`), deadlocks (`40P01`), a full
//! memory or disk. What is left, or any other error of the server, fails the call with
//! [`ErrorKind::Unavailable`](onceward::ErrorKind::Unavailable), and nothing has changed. Where a
//! connection breaks under a statement, the same statement is asked for again, which can't act
//! twice; where that doesn't help within the timeout, the error says that the outcome is unknown.
//!
//! # Connections that hang
//!
//! A call that is given up gives up nothing at the server: the statement is neither cancelled (a
//! commit that waits for a standby would then be made without it), nor is its connection closed and
//! another one made beside it. Its place is free when the server has answered, or the connection
//! has ended. Four connections at most make changes, and up to half of them wait for locked rows;
//! while all of these hang, the rest go on reading. Once one has been waiting for a tenth of the
//! timeout, a begin reads before it would change anything, so that replays go on.
//!
//! A server that is cut off without a word is noticed within `tcp_user_timeout` (three fifths of
//! the timeout) and by keepalives that come up to it (in whole seconds). Where the URL has several
//! hosts, it is given up after three fifths of that, so that the node works on the next one within
//! it; the next one is asked after `connect_timeout` (a fifth of what is given to a silent server,
//! divided by the number of others). Each can be set in the URL: a pooler or proxy in between has
//! to do the same on its own side, since its connections stay.

mod builder;
mod dial;
mod failure;
mod lent;
mod link;
mod news;
mod patience;
mod pool;
mod register;
mod schema;
mod sql;
mod together;
mod transaction;

use std::fmt;
use std::sync::Arc;

pub use builder::PostgresBuilder;
use link::Link;
use patience::Patience;
use sql::Sql;
use together::Queue;
use tokio::sync::Mutex;

/// A register on a table of a PostgreSQL database; see the [module](self).
///
/// A clone has the same settings and warnings, and connections of its own.
pub struct Postgres {
    shared: Arc<Shared>,
}

struct Shared {
    link: Link,
    sql: Sql,
    queue: Queue,
    patience: Arc<Patience>,
    /// A sweep that hangs is the only one.
    sweeping: Arc<Mutex<()>>,
    /// Tells this node's announcements from the others'.
    origin: String,
}

impl Postgres {
    /// For a database: a URL (`postgres://user:password@host:5432/database`) or a string of keys and values
    /// (`host=… user=… dbname=…`), as libpq takes them.
    pub fn builder(database: impl Into<String>) -> PostgresBuilder {
        PostgresBuilder::new(database.into())
    }

    /// The SQL that makes the table and its index, for migrations of one's own.
    pub fn schema(&self) -> &str {
        &self.shared.sql.schema
    }

    /// What of the server's settings doesn't bear the promises; read at the first contact, empty before. With the feature
    /// `tracing` each is an event, too.
    pub fn warnings(&self) -> &[String] {
        self.shared.link.warnings()
    }

    fn on(link: Link, sql: Sql) -> Self {
        let mut origin = [0; 8];
        // Without random bytes an engine can't be opened anyway.
        let _ = getrandom::fill(&mut origin);
        let patience = Arc::new(Patience::new(link.settings.connections));
        Self {
            shared: Arc::new(Shared {
                link,
                sql,
                queue: Queue::default(),
                patience,
                sweeping: Arc::default(),
                origin: format!("{:016x}", u64::from_le_bytes(origin)),
            }),
        }
    }
}

impl Clone for Postgres {
    fn clone(&self) -> Self {
        let link = self.shared.link.apart();
        let link = link.expect("a pool with these settings has been made before");
        Self::on(link, self.shared.sql.clone())
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").finish_non_exhaustive()
    }
}
