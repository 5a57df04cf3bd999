//! What an operator does with an engine: look, settle by hand, sweep, measure, close.

#[cfg(doc)]
use super::Builder;
use super::Engine;
use super::core::{Core, running};
use super::offload::in_new_thread;
use super::stats::{Health, Stats, Sweep};
use crate::decision::{Command, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::outcome::{Entry, EntryState, OnAbandon, Resolution};
use crate::record::{InFlightRecord, Record, Stored};
use crate::store::{Reads, Seen};
use crate::sync::block_on;

impl Engine {
    /// What is known of a key, or `None` if it is free.
    ///
    /// May read one record from the disk.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] if the record is damaged, [`ErrorKind::Io`], [`ErrorKind::Unavailable`] or
    /// [`ErrorKind::Closed`] if the store can't answer.
    pub fn lookup(&self, key: &Key) -> Result<Option<Entry>> {
        block_on(self.core.lookup(key, Reads::Here))
    }

    /// [`lookup`](Engine::lookup) as a future; dropping it changes nothing.
    ///
    /// # Errors
    ///
    /// As [`lookup`](Engine::lookup).
    pub async fn lookup_async(&self, key: &Key) -> Result<Option<Entry>> {
        self.core.lookup(key, Reads::Elsewhere).await
    }

    /// Frees a key whose answer must not be replayed any more, or whose attempt was abandoned.
    ///
    /// Gives whether there was a record. Waits for the disk: once this has returned, no retry gets the
    /// old answer. The bytes stay in their segment's file until the segment is unlinked, about one
    /// retention later.
    ///
    /// On a [register](Builder::open_on), it doesn't reach what other nodes have cached: they are told, and one that wasn't answers
    /// with the old reply for up to [`replay_cache_time`](Builder::replay_cache_time) more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InFlight`] while an attempt's lease is running; [`ErrorKind::Io`],
    /// [`ErrorKind::Unavailable`] or [`ErrorKind::Closed`] if the store can't answer.
    pub fn forget(&self, key: &Key) -> Result<bool> {
        block_on(self.forget_async(key))
    }

    /// [`forget`](Engine::forget) as a future; once polled, the key is forgotten though it be dropped.
    ///
    /// # Errors
    ///
    /// As [`forget`](Engine::forget).
    pub async fn forget_async(&self, key: &Key) -> Result<bool> {
        let (had_outcome, verdict) = match &self.core.reconciler {
            Some(reconciler) => {
                let digest = self.core.store.secret().digest(key);
                reconciler.forget(key, digest).await?
            }
            None => (false, self.core.command(key, Command::Forget).await?),
        };
        match verdict {
            Verdict::Done => Ok(true),
            Verdict::Nothing => Ok(had_outcome),
            Verdict::Running => Err(running("forgotten")),
            other => unreachable!("forget is never answered with {other:?}"),
        }
    }

    /// Settles an attempt that was abandoned, by an operator's decision. Waits for the disk.
    ///
    /// The attempt's own guard, if it still lives, gets [`ErrorKind::LeaseLost`] from then on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InFlight`] while the attempt's lease is running; [`ErrorKind::NotInFlight`] if the key
    /// is free or completed; [`ErrorKind::ReplyTooLarge`] as for
    /// [`Guard::complete`](crate::Guard::complete); [`ErrorKind::Io`], [`ErrorKind::Unavailable`] or
    /// [`ErrorKind::Closed`] if the store can't answer.
    pub fn resolve(&self, key: &Key, resolution: Resolution) -> Result<()> {
        block_on(self.resolve_async(key, resolution))
    }

    /// [`resolve`](Engine::resolve) as a future; once polled, it takes effect though it be dropped.
    ///
    /// # Errors
    ///
    /// As [`resolve`](Engine::resolve).
    pub async fn resolve_async(&self, key: &Key, resolution: Resolution) -> Result<()> {
        if let Resolution::Complete(reply) = &resolution {
            self.core.check_reply(reply)?;
        }
        let verdict = if let Some(reconciler) = &self.core.reconciler {
            let digest = self.core.store.secret().digest(key);
            reconciler.resolve(key, digest, resolution).await?
        } else {
            let command = Command::Resolve(resolution);
            self.core.command(key, command).await?
        };
        match verdict {
            Verdict::Done => Ok(()),
            Verdict::Running => Err(running("resolved")),
            Verdict::Nothing => Err(Error::new(
                ErrorKind::NotInFlight,
                "there is no attempt to resolve: the key is free or completed",
            )),
            other => unreachable!("resolve is never answered with {other:?}"),
        }
    }

    /// The abandoned attempts that wait for [`resolve`](Engine::resolve), oldest grant first. Always
    /// empty under [`OnAbandon::Rerun`](crate::OnAbandon::Rerun). Told from memory; on a [register](Builder::open_on), all records
    /// of the server are walked through.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] or [`ErrorKind::Closed`] if the store can't answer.
    pub fn held(&self) -> Result<Vec<Entry>> {
        self.core.store.condition()?;
        let mut held: Vec<Entry> = self
            .core
            .store
            .in_flight()?
            .iter()
            .filter(|stored| match &stored.record {
                Record::InFlight(attempt) => self.core.is_held(attempt),
                Record::Completed(_) => false,
            })
            .map(|stored| self.core.entry(stored))
            .collect();
        held.sort_unstable_by_key(|entry| entry.token);
        Ok(held)
    }

    /// Removes now what is over, instead of at the next interval.
    ///
    /// Waits for the disk, in the sweeper's thread; other callers are not held up. Records leave the
    /// disk with their segment, so that a sweep often has nothing to unlink yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if a file couldn't be removed; [`ErrorKind::Unavailable`] or
    /// [`ErrorKind::Closed`] if the store can't answer.
    pub fn sweep(&self) -> Result<Sweep> {
        block_on(self.core.sweeper.sweep())
    }

    /// [`sweep`](Engine::sweep) as a future; once polled, the sweep goes on though it be dropped.
    ///
    /// # Errors
    ///
    /// As [`sweep`](Engine::sweep).
    pub async fn sweep_async(&self) -> Result<Sweep> {
        self.core.sweeper.sweep().await
    }

    /// Whether what is counted in several ways comes to the same, while nobody changes anything; `None` if not
    /// everything is. For the fault tests.
    #[cfg(onceward_faults)]
    #[doc(hidden)]
    pub fn do_counts_agree(&self) -> Option<bool> {
        self.core.store.do_counts_agree()
    }

    /// The engine's figures. Asks the file system for the sizes of the segments' files, and waits for
    /// nothing else; still answers after `close`.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Whether a new key would be granted now, and if not, why; and what fails behind the scenes.
    /// Doesn't wait for the disk, but asks the file system whether the folder is still at its path
    /// (Unix): if not, the engine fails for good, as it would with the next change.
    ///
    /// On a [register](Builder::open_on) it is told from the last calls: not ready from one that the server didn't answer or refused until
    /// it has written something again, which the engine tries by itself, every second at the latest. Nobody asks the server before a call fails.
    pub fn health(&self) -> Health {
        self.core.health()
    }

    /// Closes the engine: refuses new work and queued begins, carries out the completions and releases that
    /// are queued, ends and joins the threads, and lets go of the folder.
    ///
    /// Waits for the disk. Other handles and live guards get [`ErrorKind::Closed`] from then on; the
    /// guards' leases stand. Closing twice is fine.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] or [`ErrorKind::Corrupt`] if a file couldn't be closed cleanly. Everything that
    /// was acknowledged is on the disk all the same; the next open reads the newest segment from there, and goes on in
    /// a new one. [`ErrorKind::Failed`] if the folder isn't at its path any more: it is whole where
    /// it was moved to, if it was moved.
    pub fn close(self) -> Result<()> {
        self.core.shut_down()
    }

    /// [`close`](Engine::close) as a future, which closes in a thread of its own; once polled, it goes on
    /// though the future be dropped.
    ///
    /// # Errors
    ///
    /// As [`close`](Engine::close).
    pub async fn close_async(self) -> Result<()> {
        in_new_thread("onceward-close", move || self.close()).await
    }
}

impl Core {
    async fn lookup(&self, key: &Key, reads: Reads) -> Result<Option<Entry>> {
        let digest = self.store.secret().digest(key);
        let asked = match reads {
            Reads::Here => None,
            Reads::Elsewhere => self.store.ask_for(&digest),
        };
        let stored = match asked {
            Some(asked) => asked.await?,
            None => {
                self.reading(reads, move |store| store.load(&digest))
                    .await?
            }
        };
        Ok(stored.map(|stored| self.entry(&stored)))
    }

    async fn command(&self, key: &Key, command: Command) -> Result<Verdict> {
        let digest = self.store.secret().digest(key);
        self.submit(key, digest, command, Seen::default()).await
    }

    /// Whether an operator has to decide about the attempt, by this node's reckoning of the store's
    /// time.
    fn is_held(&self, attempt: &InFlightRecord) -> bool {
        let ended = self.store.local(attempt.lease_until) <= self.timeline.now();
        self.on_abandon == OnAbandon::Hold && ended
    }

    pub(super) fn entry(&self, stored: &Stored) -> Entry {
        let (attempt, token, state) = match &stored.record {
            Record::InFlight(record) => {
                let state = EntryState::InFlight {
                    started_at: record.started_at.to_system_time(),
                    lease_until: record.lease_until.to_system_time(),
                    is_held: self.is_held(record),
                };
                (record.attempt, record.token, state)
            }
            Record::Completed(record) => {
                let state = EntryState::Completed {
                    completed_at: record.completed_at.to_system_time(),
                    expires_at: record.expires_at.to_system_time(),
                    reply: record.reply.clone(),
                };
                (record.attempt, record.token, state)
            }
        };
        Entry {
            key: stored.key.clone(),
            attempt,
            token,
            state,
        }
    }
}
