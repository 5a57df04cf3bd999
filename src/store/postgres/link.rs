//! The connections, and what is done when one fails.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use deadpool_postgres::{Client as Pooled, Pool};
use tokio::sync::OnceCell;
use tokio::time::sleep;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement as Prepared};

use super::failure::{Failure, says_locked};
use super::pool::{Connection, Settings, pool};
use super::schema::first_contact;
use super::sql::Sql;
use crate::error::Result;
use crate::store::register::Refused;

/// How often a statement is tried that the server couldn't carry out beside others, or only on another server.
const MOST_TRIES: u32 = 8;
/// The pause before the second try; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
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
    fn nothing(error: tokio_postgres::Error) -> Self {
        Self::Nothing {
            failure: Failure::of(&error),
            error,
            culprit: None,
        }
    }

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
    /// What the first contact has found.
    warnings: Arc<OnceCell<Vec<String>>>,
}

impl Link {
    pub(super) fn new(mut settings: Settings) -> Result<Self> {
        let Settings {
            config, timeout, ..
        } = &mut settings;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(*timeout);
        }
        // A server that has vanished without a word is noticed by then.
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(*timeout);
        }
        Ok(Self {
            pool: pool(&settings)?,
            settings,
            warnings: Arc::default(),
        })
    }

    /// The same with connections of its own.
    pub(super) fn apart(&self) -> Result<Self> {
        Ok(Self {
            pool: pool(&self.settings)?,
            settings: self.settings.clone(),
            warnings: Arc::clone(&self.warnings),
        })
    }

    pub(super) fn warnings(&self) -> &[String] {
        self.warnings.get().map_or(&[], Vec::as_slice)
    }

    /// Carries out one statement, a transaction of its own.
    pub(super) async fn rows(
        &self,
        sql: &Sql,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Refused> {
        let mut pause = FIRST_PAUSE;
        for tries_left in (0..MOST_TRIES).rev() {
            let lent = self.lend(sql).await?;
            let error = match lent.rows(statement, parameters).await {
                Ok(rows) => {
                    lent.give_back();
                    return Ok(rows);
                }
                Err(error) => error,
            };
            let failure = Failure::of(&error);
            if failure.spares_connection() {
                lent.give_back();
            }
            if matches!(failure, Failure::OtherConnection | Failure::Broken) {
                // The idle ones are of the same sort.
                self.pool.retain(|_, _| false);
            }
            if !failure.may_pass() || tries_left == 0 {
                return Err(failure.refused(error));
            }
            sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the last try returns")
    }

    /// One statement that may wait for a row which somebody has locked.
    pub(super) async fn patiently(
        &self,
        sql: &Sql,
        statement: Statement<'_>,
    ) -> Result<Vec<Row>, Refused> {
        let lock_wait = LOCK_WAIT.min(self.settings.timeout / 4).as_millis();
        let begin = format!("BEGIN; SET LOCAL lock_timeout = {lock_wait}");
        let statements = [statement];
        let mut pause = FIRST_PAUSE;
        for tries_left in (0..MOST_TRIES).rev() {
            let (may_pass, error) = match self.transaction(sql, &begin, &statements).await {
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
            if !may_pass || tries_left == 0 {
                return Err(Refused::unchanged(error));
            }
            sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the last try returns")
    }

    /// Carries out some statements in one transaction, in one flight: nobody waits between them.
    pub(super) async fn transaction(
        &self,
        sql: &Sql,
        begin: &str,
        statements: &[Statement<'_>],
    ) -> Result<Vec<Vec<Row>>, Undone> {
        let lent = self.lend(sql).await.map_err(Undone::Refused)?;
        let prepared = lent.prepared(statements).await;
        let prepared = prepared.map_err(Undone::nothing)?;
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
        let undone = match (begun, committed, first) {
            (Ok(()), Ok(()), None) => {
                lent.give_back();
                return Ok(rows);
            }
            // The server has failed one of them, and so has rolled back.
            (Ok(()), Ok(()), Some((at, error))) if error.code().is_some() => {
                let failure = Failure::of(&error);
                if failure.spares_connection() {
                    lent.give_back();
                }
                Undone::Nothing {
                    failure,
                    error,
                    culprit: Some(at),
                }
            }
            // Without a transaction around them, the others were transactions of their own. Or the answer was of no use.
            (Err(error), ..) | (Ok(()), Ok(()), Some((_, error))) => Undone::Unknown(error),
            (Ok(()), Err(error), _) => match Failure::of(&error) {
                Failure::Broken => Undone::Unknown(error),
                _ => Undone::nothing(error),
            },
        };
        if let Undone::Unknown(_)
        | Undone::Nothing {
            failure: Failure::OtherConnection,
            ..
        } = &undone
        {
            // The idle ones are of the same sort.
            self.pool.retain(|_, _| false);
        }
        Err(undone)
    }

    async fn lend(&self, sql: &Sql) -> Result<Lent, Refused> {
        let pooled = self.pool.get().await.map_err(Refused::unchanged)?;
        let lent = Lent(Some(pooled));
        let contact = || first_contact(lent.connection(), sql, &self.settings);
        self.warnings.get_or_try_init(contact).await?;
        Ok(lent)
    }
}

/// A connection that isn't used again unless it is given back: whoever gave up in the middle of a statement leaves an answer
/// under way, or a server that gives none.
struct Lent(Option<Pooled>);

impl Lent {
    fn connection(&self) -> &Connection {
        self.0
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

    fn give_back(mut self) {
        drop(self.0.take());
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

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(pooled) = self.0.take() {
            drop(Pooled::take(pooled));
        }
    }
}
