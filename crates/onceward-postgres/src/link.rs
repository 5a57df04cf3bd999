//! The connections, and what is done when one fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool_postgres::{Pool, Timeouts};
use onceward::Result;
use onceward::register::{Refused, Tries};
use tokio::sync::OnceCell;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::failure::{Failure, may_be_had_later, says_locked};
use super::lent::{Lent, Results};
use super::pool::{Settings, pool};
use super::schema::first_contact;
use super::sql::Sql;

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

    /// Gives a connection back after that failure, or lets go of it and all idle ones of the same
    /// sort: those that were made before it was asked.
    fn settle(&self, lent: Lent, failure: Failure) {
        if failure.spares_connection() {
            return lent.give_back();
        }
        let lent_at = lent.lent_at;
        lent.let_go();
        self.pool.retain(|_, metrics| metrics.created > lent_at);
    }

    /// A connection, as soon as there is one: others may have all of the server's for a while, or
    /// it starts.
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
