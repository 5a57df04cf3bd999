//! What the writer has decided and not yet committed.

use std::collections::HashMap;
use std::sync::Arc;

use super::index::{Slot, SlotKind};
use super::lanes::Done;
use super::log::{FrameBuffer, Span};
use super::view::Current;
use crate::clock::Timestamp;
use crate::codec::{self, Heading};
use crate::decision::Verdict;
use crate::encryption::Cipher;
use crate::error::Result;
use crate::record::{Record, Stored};
use crate::secret::{BuildDigestHasher, Digest};
use crate::store::{Answer, Seen};

/// Entries staged for one commit, and the answers that wait for it. Kept and reused by the writer.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) publications: Vec<Publication>,
    pub(super) answers: Vec<(Answer, Result<Verdict>)>,
    pub(super) dones: Vec<Done>,
    /// What the batch itself has made of a key.
    overlay: HashMap<u128, Staged, BuildDigestHasher>,
    pub(super) frame: FrameBuffer,
    added: i64,
    /// By scope; only if there is a limit on its keys.
    added_of_scopes: Option<HashMap<u64, i64, BuildDigestHasher>>,
}

/// How many live keys there are more than what is published says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Added {
    pub(super) keys: i64,
    /// Of the scope in question.
    pub(super) keys_of_scope: i64,
}

#[derive(Debug, Clone)]
struct Staged {
    stored: Option<Arc<Stored>>,
    sequence: u64,
}

/// One entry to publish.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) digest: Digest,
    pub(super) sequence: u64,
    /// `None` if the entry freed the key.
    pub(super) stored: Option<Arc<Stored>>,
    /// The entry that made the key live before, if it was.
    pub(super) prior: Option<u64>,
}

impl Publication {
    /// What the index notes of it, if its entry stands there.
    pub(super) fn slot(&self, span: Span) -> Slot {
        let record = self.stored.as_ref().map(|stored| &stored.record);
        let kind = match record {
            None => SlotKind::Removed,
            Some(Record::InFlight(_)) => SlotKind::InFlight,
            Some(Record::Completed(_)) => SlotKind::Completed,
        };
        Slot::new(self.sequence, kind, span)
    }
}

impl Batch {
    pub(super) fn new(counts_scopes: bool) -> Self {
        Self {
            added_of_scopes: counts_scopes.then(HashMap::default),
            ..Self::default()
        }
    }

    pub(super) fn clear(&mut self) {
        self.publications.clear();
        self.answers.clear();
        self.dones.clear();
        self.overlay.clear();
        self.frame.clear();
        self.added = 0;
        if let Some(added) = &mut self.added_of_scopes {
            added.clear();
        }
    }

    /// What the batch has made of a key, if it has touched it.
    pub(super) fn current(&self, digest: &Digest) -> Option<Current> {
        let staged = self.overlay.get(&digest.short())?;
        Some(Current {
            stored: staged.stored.clone(),
            live_entry: staged.stored.is_some().then_some(staged.sequence),
            seen: Seen::default(),
        })
    }

    /// Encodes one entry and notes what it makes of its key. On an error nothing is staged.
    pub(super) fn stage(
        &mut self,
        digest: Digest,
        sequence: u64,
        now: Timestamp,
        stored: Option<Arc<Stored>>,
        prior: Option<u64>,
        cipher: Option<&Cipher>,
    ) -> Result<()> {
        let heading = Heading {
            sequence,
            written_at: now,
            prior,
        };
        self.frame.push(|out| match &stored {
            Some(stored) => encode(out, heading, stored, cipher),
            None => codec::encode_removal(out, heading, digest),
        })?;
        let added = i64::from(stored.is_some()) - i64::from(prior.is_some());
        self.added += added;
        // What is freed makes room once it is published: it may not have counted.
        if let Some(of_scopes) = &mut self.added_of_scopes
            && added > 0
        {
            *of_scopes.entry(digest.scope()).or_default() += added;
        }
        let staged = Staged {
            stored: stored.clone(),
            sequence,
        };
        self.overlay.insert(digest.short(), staged);
        self.publications.push(Publication {
            digest,
            sequence,
            stored,
            prior,
        });
        Ok(())
    }

    pub(super) fn added(&self, digest: &Digest) -> Added {
        let of_scopes = self.added_of_scopes.as_ref();
        let of_scope = of_scopes.and_then(|scopes| scopes.get(&digest.scope()));
        Added {
            keys: self.added,
            keys_of_scope: of_scope.copied().unwrap_or(0),
        }
    }
}

fn encode(
    out: &mut Vec<u8>,
    heading: Heading,
    stored: &Stored,
    cipher: Option<&Cipher>,
) -> Result<()> {
    let encrypted = cipher.map(|cipher| codec::encrypted(stored, cipher));
    let encrypted = encrypted.transpose()?.flatten();
    codec::encode_put(out, heading, encrypted.as_ref().unwrap_or(stored))
}
