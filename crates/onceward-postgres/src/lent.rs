//! One connection in somebody's hands.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use deadpool_postgres::Client as Pooled;
use tokio::runtime::Handle;
use tokio_postgres::{Row, Statement as Prepared};

use super::link::{Parameters, Statement};
use super::pool::Connection;

/// A connection. Its place in the pool stays taken until the server has answered all that it was
/// asked, or the connection has ended: closed earlier, it would leave behind a server's process
/// that goes on with the statement. Nor is the statement cancelled: a commit that waits for a
/// standby would be made without it, and would tell so to nobody.
pub(super) struct Lent {
    pooled: Option<Pooled>,
    pub(super) lent_at: Instant,
}

impl Lent {
    pub(super) fn new(pooled: Pooled) -> Self {
        Self {
            pooled: Some(pooled),
            lent_at: Instant::now(),
        }
    }

    pub(super) fn connection(&self) -> &Connection {
        self.pooled
            .as_ref()
            .expect("a connection is there until it is given back")
    }

    pub(super) async fn rows(
        &self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let connection = self.connection();
        let prepared = connection.prepare_cached(statement).await?;
        connection.query(&prepared, parameters).await
    }

    pub(super) async fn prepared(
        &self,
        statements: &[Statement<'_>],
    ) -> Result<Vec<Prepared>, tokio_postgres::Error> {
        let mut prepared = Vec::with_capacity(statements.len());
        for statement in statements {
            prepared.push(self.connection().prepare_cached(statement.text).await?);
        }
        Ok(prepared)
    }

    pub(super) async fn transaction(
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
    pub(super) fn give_back(mut self) {
        drop(self.pooled.take());
    }

    /// All is answered, or nothing ever will be.
    pub(super) fn let_go(mut self) {
        drop(self.pooled.take().map(Pooled::take));
    }
}

/// What came of a transaction's parts.
pub(super) struct Results {
    pub(super) begun: Result<(), tokio_postgres::Error>,
    pub(super) made: Vec<Result<Vec<Row>, tokio_postgres::Error>>,
    pub(super) committed: Result<(), tokio_postgres::Error>,
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
    /// Waits for the answer. This one's comes after it, and is an error if a transaction was left
    /// open that has failed.
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
