//! Completions that the caller's own transactions make.

use super::decider::Decider;
use super::record::Held;
use super::{OutcomeRow, RecordId, Register, Replaces};
use crate::decision;
use crate::error::Result;
use crate::record::Record;
use crate::secret::Digest;
use crate::store::{Draft, Observed, Request};

impl<R: Register> Decider<R> {
    /// The row that carries out a completion in a transaction of the caller's.
    pub(super) async fn draft(&self, completion: Request) -> Result<Draft> {
        let Request {
            key,
            digest,
            command,
            ..
        } = completion;
        let mut view = self.first_view(&digest, &command).await?;
        loop {
            let held = view.value.as_ref().map(|value| Held::of(value, &digest));
            let held = held.transpose()?;
            let last_token = held.as_ref().map_or(0, |held| held.token);
            let context = self.context(&view, last_token);
            let record = held.as_ref().and_then(Held::record);
            let decision = decision::decide(record, &command, &context);
            let expected = view.value.as_ref().map(|value| value.version);
            let Some((change, expected)) = decision.change.zip(expected) else {
                if !view.is_assumed {
                    return Ok(Err(decision.verdict));
                }
                view = self.load(digest).await?;
                continue;
            };
            let stored = self.stored(change, digest, &key);
            let version = self.versions.next();
            let new = self.value_of(stored.as_ref(), digest, &view, last_token, version)?;
            return Ok(Ok(OutcomeRow {
                id: RecordId(digest),
                replaces: Replaces::Version(expected),
                mark: None,
                value: new.value,
                ends_at_ms: new.ends_at.0,
            }));
        }
    }

    /// Is told that a draft fitted nothing.
    pub(super) fn mistaken(&self, digest: &Digest) {
        self.own.lock().remove(digest);
    }

    /// Whether a transaction of the caller's has completed a key for that attempt.
    pub(super) async fn confirmed(&self, digest: Digest, token: u64) -> Result<bool> {
        let view = self.load(digest).await?;
        let held = view.value.as_ref().map(|value| Held::of(value, &digest));
        let held = held.transpose()?;
        let record = held.as_ref().and_then(Held::record);
        let is_its_own = matches!(record, Some(Record::Completed(record)) if record.token == token);
        // The caller has committed it, and was told so: it is as durable as that.
        if is_its_own {
            self.own.lock().remove(&digest);
            self.observer.changed(&digest, Observed::Completed);
            self.news.tell(digest, Observed::Completed);
        }
        Ok(is_its_own)
    }
}
