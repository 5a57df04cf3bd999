//! The connections, and what is done when one fails.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use deadpool_postgres::{Client as Pooled, Pool, Timeouts};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement as Prepared};

use super::failure::{Failure, may_be_had_later, says_locked};
use super::pool::{Connection, Settings, pool};
use super::schema::first_contact;
use super::sql::Sql;
use crate::error::Result;
use crate::store::register::Refused;
use crate::store::tries::Tries;
use crate::sync::atomic::{AtomicU64, Ordering};

/// How long a patient statement waits for a row that a transaction of somebody's has changed and not yet committed. A call may
/// have to do so more than once.
const LOCK_WAIT: Duration = Duration::from_secs(1);

pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// One of a transaction's.
pub(super) struct Statement<'a> {
    pub(super) text: &'a str,
    pub(super) parameters: Vec<&'a (dyn ToSql + Sync)>,
}

/// Why a transaction hasn't committed.
pub(super) enum Undone {
    /// It wasn't begun.
    Refused(Refused),
    /// Nothing has changed.
    Nothing {
        failure: Failure,
        error: tokio_postgres::Error,
        /// The first statement that has failed, if it was one of them.
        culprit: Option<usize>,
    },
    /// It may have, after all.
    Unknown(tokio_postgres::Error),
}

impl Undone {
    /// The same, with the statement that has failed counted otherwise.
    pub(super) fn with_culprit(mut self, place: impl FnOnce(usize) -> usize) -> Self {
        if let Self::Nothing { culprit, .. } = &mut self {
            *culprit = culprit.map(place);
        }
        self
    }
}

pub(super) struct Link {
    pool: Pool,
    pub(super) settings: Settings,
    /// How many connections were made.
    made: Arc<AtomicU64>,
    /// What the first contact has found.
    warnings: Arc<OnceCell<Vec<String>>>,
}

impl Link {
    pub(super) fn new(mut settings: Settings) -> Result<Self> {
        settings.notice_silence();
        Self::with(settings, Arc::default())
    }

    /// The same with connections of its own.
    pub(super) fn apart(&self) -> Result<Self> {
        Self::with(self.settings.clone(), Arc::clone(&self.warnings))
    }

    fn with(settings: Settings, warnings: Arc<OnceCell<Vec<String>>>) -> Result<Self> {
        let made = Arc::default();
        Ok(Self {
            pool: pool(&settings, &made)?,
            settings,
            made,
            warnings,
        })
    }

    pub(super) fn warnings(&self) -> &[String] {
        self.warnings.get().map_or(&[], Vec::as_slice)
    }

    /// How many connections were made so far, but for those that only hear.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    /// The tries that one of the register's calls has.
    pub(super) fn tries(&self) -> Tries {
        Tries::within(self.settings.timeout)
    }

    /// Carries out one statement, a transaction of its own.
    pub(super) async fn rows(
        &self,
        sql: &Sql,
        statement: &str,
        parameters: Parameters<'_>,
        mut tries: Tries,
    ) -> Result<Vec<Row>, Refused> {
        loop {
            let lent = self.lend(sql, &mut tries).await?;
            let error = match lent.rows(statement, parameters).await {
                Ok(rows) => {
                    lent.give_back();
                    return Ok(rows);
                }
                Err(error) => error,
            };
            let failure = Failure::of(&error);
            self.settle(lent, failure);
            if !failure.may_pass() || !tries.pause().await {
                return Err(failure.refused(error));
            }
        }
    }

    /// One statement that may wait for a row which somebody has locked.
    pub(super) async fn patiently(
        &self,
        sql: &Sql,
        statement: Statement<'_>,
        mut tries: Tries,
    ) -> Result<Vec<Row>, Refused> {
        let lock_wait = LOCK_WAIT.min(self.settings.timeout / 4).as_millis();
        let begin = format!("BEGIN; SET LOCAL lock_timeout = {lock_wait}");
        let statements = [statement];
        loop {
            let made = self.transaction(sql, &begin, &statements, &mut tries);
            let (may_pass, error) = match made.await {
                Ok(mut rows) => return Ok(rows.pop().unwrap_or_default()),
                Err(Undone::Refused(refused)) => return Err(refused),
                Err(Undone::Unknown(error)) => return Err(Refused::unknown(error)),
                Err(Undone::Nothing {
                    failure,
                    error,
                    culprit,
                }) => {
                    // Preparing a statement waits for no longer than others do.
                    let is_unprepared = culprit.is_none() && says_locked(&error);
                    (failure.may_pass() || is_unprepared, error)
                }
            };
            if !may_pass || !tries.pause().await {
                return Err(Refused::unchanged(error));
            }
        }
    }

    /// Carries out some statements in one transaction, in one flight: nobody waits between them.
    pub(super) async fn transaction(
        &self,
        sql: &Sql,
        begin: &str,
        statements: &[Statement<'_>],
        tries: &mut Tries,
    ) -> Result<Vec<Vec<Row>>, Undone> {
        let lent = self.lend(sql, tries).await.map_err(Undone::Refused)?;
        let prepared = match lent.prepared(statements).await {
            Ok(prepared) => prepared,
            Err(error) => return Err(self.undone_before(lent, error)),
        };
        let Results {
            begun,
            made,
            committed,
        } = lent.transaction(begin, statements, &prepared).await;
        let mut rows = Vec::with_capacity(made.len());
        let mut first = None;
        for (at, made) in made.into_iter().enumerate() {
            match made {
                Ok(found) => rows.push(found),
                Err(error) => first = first.or(Some((at, error))),
            }
        }
        let (error, culprit) = match (begun, committed, first) {
            (Ok(()), Ok(()), None) => {
                lent.give_back();
                return Ok(rows);
            }
            // The server has failed one of them, and so has rolled back.
            (Ok(()), Ok(()), Some((at, error))) if error.code().is_some() => (error, Some(at)),
            (Ok(()), Err(error), _) if Failure::of(&error) != Failure::Broken => (error, None),
            // Without a transaction around them, the others were transactions of their own. Or the answer was of no use.
            (Err(error), ..) | (Ok(()), Ok(()), Some((_, error))) | (Ok(()), Err(error), _) => {
                self.settle(lent, Failure::Broken);
                return Err(Undone::Unknown(error));
            }
        };
        let failure = Failure::of(&error);
        self.settle(lent, failure);
        Err(Undone::Nothing {
            failure,
            error,
            culprit,
        })
    }

    /// Nothing has been asked on that connection that changes anything.
    fn undone_before(&self, lent: Lent, error: tokio_postgres::Error) -> Undone {
        let failure = match Failure::of(&error) {
            Failure::Broken => Failure::OtherConnection,
            failure => failure,
        };
        self.settle(lent, failure);
        Undone::Nothing {
            failure,
            error,
            culprit: None,
        }
    }

    /// Gives a connection back after that failure, or lets go of it and all idle ones of the same sort: those that were made before
    /// it was asked.
    fn settle(&self, lent: Lent, failure: Failure) {
        if failure.spares_connection() {
            return lent.give_back();
        }
        let lent_at = lent.lent_at;
        lent.let_go();
        self.pool.retain(|_, metrics| metrics.created > lent_at);
    }

    /// A connection, as soon as there is one: others may have all of the server's for a while, or it starts.
    async fn lend(&self, sql: &Sql, tries: &mut Tries) -> Result<Lent, Refused> {
        loop {
            let refused = match self.lend_once(sql, tries).await {
                Ok(lent) => return Ok(lent),
                Err(refused) => refused,
            };
            if !may_be_had_later(&refused) || !tries.pause().await {
                return Err(refused);
            }
        }
    }

    async fn lend_once(&self, sql: &Sql, tries: &Tries) -> Result<Lent, Refused> {
        let time = Some(tries.left());
        let timeouts = Timeouts {
            wait: time,
            create: time,
            recycle: None,
        };
        let pooled = self.pool.timeout_get(&timeouts).await;
        let lent = Lent::new(pooled.map_err(Refused::unchanged)?);
        let contact = || first_contact(lent.connection(), sql, &self.settings);
        match self.warnings.get_or_try_init(contact).await {
            Ok(_) => Ok(lent),
            Err(refused) => {
                lent.let_go();
                Err(refused)
            }
        }
    }
}

/// A connection. Its place in the pool stays taken until the server has answered all that it was asked, or the connection has
/// ended: closed earlier, it would leave behind a server's process that goes on with the statement. Nor is the statement cancelled: a
/// commit that waits for a standby would be made without it, and would tell so to nobody.
struct Lent {
    pooled: Option<Pooled>,
    lent_at: Instant,
}

impl Lent {
    fn new(pooled: Pooled) -> Self {
        Self {
            pooled: Some(pooled),
            lent_at: Instant::now(),
        }
    }

    fn connection(&self) -> &Connection {
        self.pooled
            .as_ref()
            .expect("a connection is there until it is given back")
    }

    async fn rows(
        &self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let connection = self.connection();
        let prepared = connection.prepare_cached(statement).await?;
        connection.query(&prepared, parameters).await
    }

    async fn prepared(
        &self,
        statements: &[Statement<'_>],
    ) -> Result<Vec<Prepared>, tokio_postgres::Error> {
        let mut prepared = Vec::with_capacity(statements.len());
        for statement in statements {
            prepared.push(self.connection().prepare_cached(statement.text).await?);
        }
        Ok(prepared)
    }

    async fn transaction(
        &self,
        begin: &str,
        statements: &[Statement<'_>],
        prepared: &[Prepared],
    ) -> Results {
        let connection = self.connection();
        let bare = |text: &str| -> Answer<'_> {
            let text = text.to_owned();
            Box::pin(async move { connection.batch_execute(&text).await.map(|()| Vec::new()) })
        };
        let mut answers = vec![bare(begin)];
        for (statement, prepared) in statements.iter().zip(prepared) {
            answers.push(Box::pin(connection.query(prepared, &statement.parameters)));
        }
        answers.push(bare("COMMIT"));
        let mut results = all(answers).await.into_iter();
        let first = results.next().map_or(Ok(()), |first| first.map(drop));
        let committed = results.next_back().map_or(Ok(()), |done| done.map(drop));
        Results {
            begun: first,
            made: results.collect(),
            committed,
        }
    }

    /// All is answered.
    fn give_back(mut self) {
        drop(self.pooled.take());
    }

    /// All is answered, or nothing ever will be.
    fn let_go(mut self) {
        drop(self.pooled.take().map(Pooled::take));
    }
}

/// What came of a transaction's parts.
struct Results {
    begun: Result<(), tokio_postgres::Error>,
    made: Vec<Result<Vec<Row>, tokio_postgres::Error>>,
    committed: Result<(), tokio_postgres::Error>,
}

type Answer<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<Row>, tokio_postgres::Error>> + Send + 'a>>;

/// Asks for all before any has answered, in their order.
async fn all(mut answers: Vec<Answer<'_>>) -> Vec<Result<Vec<Row>, tokio_postgres::Error>> {
    let mut results: Vec<Option<_>> = answers.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut is_done = true;
        for (answer, result) in answers.iter_mut().zip(&mut results) {
            if result.is_none() {
                match answer.as_mut().poll(cx) {
                    Poll::Ready(found) => *result = Some(found),
                    Poll::Pending => is_done = false,
                }
            }
        }
        if is_done {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    results.into_iter().flatten().collect()
}

/// Somebody has given up what is under way.
impl Drop for Lent {
    fn drop(&mut self) {
        let Some(pooled) = self.pooled.take() else {
            return;
        };
        let unanswered = Unanswered(Some(pooled));
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(unanswered.give_back());
        }
    }
}

/// A connection on which an answer is due that nobody waits for; dropped, it isn't used again.
struct Unanswered(Option<Pooled>);

impl Unanswered {
    /// Waits for the answer. This one's comes after it, and is an error if a transaction was left open that has failed.
    async fn give_back(mut self) {
        if let Some(pooled) = &self.0
            && pooled.simple_query("SELECT 1").await.is_ok()
        {
            drop(self.0.take());
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        drop(self.0.take().map(Pooled::take));
    }
}
