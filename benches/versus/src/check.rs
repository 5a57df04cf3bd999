//! Each rival shows that it does the job before it is measured.

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Runtime;

use crate::load::Numbers;
use crate::rival::{Answer, Rival, key, reply};

/// Granted once, in flight for the second caller, and the same bytes for everybody afterwards.
pub(crate) fn in_threads(rival: &dyn Rival, numbers: &Numbers) -> Result<()> {
    let number = numbers.next();
    let (key, reply) = (key(number)?, reply(number));
    let (mut first, mut second, mut reader) = (rival.caller()?, rival.caller()?, rival.reader()?);
    ensure!(
        reader.replay(&self::key(numbers.next())?)?.is_none(),
        "a key that was never begun has a reply"
    );
    let answer = first.begin(&key)?;
    ensure!(answer == Answer::Done, "not granted: {answer:?}");
    let answer = second.begin(&key)?;
    ensure!(answer == Answer::InFlight, "not in flight: {answer:?}");
    first.complete(&key, reply.clone())?;
    for (caller, name) in [(&mut first, "first"), (&mut second, "second")] {
        let answer = caller.begin(&key)?;
        ensure!(
            answer == Answer::Reply(reply.clone()),
            "the {name} caller got another answer than its reply: {answer:?}"
        );
    }
    let looked_up = reader.replay(&key)?;
    ensure!(looked_up == Some(reply), "looked up: {looked_up:?}");
    Ok(())
}

/// The same through tasks.
pub(crate) fn in_tasks(rival: &dyn Rival, numbers: &Numbers, runtime: &Runtime) -> Result<()> {
    let number = numbers.next();
    let (key, reply) = (key(number)?, reply(number));
    runtime.block_on(async {
        let mut tasks = rival.tasks(2).await?;
        let mut second = tasks.pop().context("two tasks")?;
        let mut first = tasks.pop().context("two tasks")?;
        let answer = first.begin(&key).await?;
        ensure!(answer == Answer::Done, "not granted: {answer:?}");
        let answer = second.begin(&key).await?;
        ensure!(answer == Answer::InFlight, "not in flight: {answer:?}");
        first.complete(&key, reply.clone()).await?;
        let answer = second.begin(&key).await?;
        ensure!(
            answer == Answer::Reply(reply),
            "another answer than its reply: {answer:?}"
        );
        Ok(())
    })
}
