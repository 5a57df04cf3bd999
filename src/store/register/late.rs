//! What is made up for once it shows that the server's time was past what was assumed: the machine has slept, say.

use std::time::Duration;

use super::Register;
use super::Version;
use super::asked::Asked;
use super::asking::Made;
use super::decider::{Decider, View};
use super::record::New;
use crate::decision::{Command, Grant, Verdict};
use crate::error::Result;
use crate::record::{Record, Stored};

/// A node that is behind by so much has slept. By less, only what is reckoned to the millisecond is made up for.
const SLEPT: Duration = Duration::from_secs(1);
/// Clocks are read in whole milliseconds, so that the server's seems to be ahead by one now and then.
const ROUNDING: Duration = Duration::from_millis(1);
/// A renewal that is short by more than this part of its lease is made once more.
const PART_TO_MAKE_UP: u32 = 16;

/// Whether an answer that is kept for so long would be kept for too short a time.
pub(super) fn has_slept(late: Duration, retention: Duration) -> bool {
    late >= SLEPT.min(retention)
}

impl<R: Register> Decider<R> {
    /// Gives a grant or a renewal its whole lease.
    pub(super) async fn make_up(
        &self,
        asked: &Asked<'_>,
        (verdict, late): (Verdict, Duration),
    ) -> Result<Verdict> {
        if late <= ROUNDING {
            return Ok(verdict);
        }
        match (&verdict, asked.command) {
            // Its token may be lower than one that others have given meanwhile.
            (Verdict::Proceed(grant), Command::Begin { retention, .. })
                if has_slept(late, *retention) =>
            {
                let release = Command::Release { token: grant.token };
                self.again(&asked.other(&release)).await?;
                self.again(asked).await
            }
            (Verdict::Proceed(grant), Command::Begin { lease, .. }) => {
                let (token, lease) = (grant.token, *lease);
                let renewal = Command::Renew { token, lease };
                match self.again(&asked.other(&renewal)).await? {
                    Verdict::Renewed { lease_until } => Ok(Verdict::Proceed(Grant {
                        lease_until,
                        ..*grant
                    })),
                    _ => Err(super::decider::contended()),
                }
            }
            // By less the guard's own end is earlier, and nobody has to ask once more.
            (Verdict::Renewed { .. }, Command::Renew { lease, .. })
                if late > *lease / PART_TO_MAKE_UP =>
            {
                self.again(asked).await
            }
            _ => Ok(verdict),
        }
    }

    async fn again(&self, asked: &Asked<'_>) -> Result<Verdict> {
        let view = self.first_view(&asked.digest, asked.command).await?;
        let (verdict, _) = self.settle(asked, view).await?;
        Ok(verdict)
    }

    /// Writes a completion once more whose times are too early, and gives it as it is then. `Err` has what is there, if that isn't
    /// the completion any more.
    pub(super) async fn write_later(
        &self,
        asked: &Asked<'_>,
        mut completed: Stored,
        version: Version,
        (view, late): (&View, Duration),
    ) -> Result<Result<Stored, View>> {
        if let Record::Completed(record) = &mut completed.record {
            record.completed_at = record.completed_at.plus(late);
            record.expires_at = record.expires_at.plus(late);
        }
        let (digest, now) = (completed.digest, view.now.plus(late));
        let new = New::put(&completed, self.versions.next(), now, self.rules.on_abandon)?;
        let mut expected = Some(version);
        loop {
            match self.swap(digest, expected, &new, &asked.doubt).await? {
                Made::Done { .. } => return Ok(Ok(completed)),
                // By the server's time it had ended already.
                Made::Not(found) if found.value.is_none() && expected.is_some() => expected = None,
                Made::Not(found) => return Ok(Err(found)),
            }
        }
    }
}
