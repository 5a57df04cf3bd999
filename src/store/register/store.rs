//! The adapter that makes a register a store.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;

use super::connect::{Connected, waited_in, watched};
use super::decider::Decider;
use super::due;
use super::news::{self, News};
use super::reach::Reach;
use super::record::Held;
use super::replies::{Caching, Replies};
use super::room::{Limit, Room};
use super::server_time::ServerTime;
use super::versions::Versions;
use super::walk::{Walk, Walked};
use super::watch;
use super::worker::{Jobs, Worker};
use super::{Cursor, Page, Refused, Register};
use crate::clock::Timestamp;
use crate::decision::{self, Command, Context};
use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::observe::Meters;
use crate::progress::{Progress, Stage};
use crate::record::{Record, Stored};
use crate::secret::{Digest, Secret};
use crate::store::{
    Answer, Chunks, Draft, Figures, Glance, Later, Observer, Reads, Request, Rules, Seen, Store,
    Swept,
};
use crate::sync::Mutex;
use crate::sync::atomic::AtomicUsize;
use crate::verification::Verification;

/// How long somebody who waits for a key waits before looking again, at first.
const FIRST_LOOK: Duration = Duration::from_millis(20);

/// A store whose records a [`Register`] keeps.
pub(crate) struct RegisterStore<R> {
    access: Access<R>,
    meters: Meters,
    /// `None` once the store is closed.
    worker: Mutex<Option<Worker>>,
}

/// A way to the register for callers that wait.
pub(super) struct Access<R> {
    shared: Arc<Decider<R>>,
    jobs: Jobs,
}

impl<R: Register> RegisterStore<R> {
    /// Starts the store of a register that was connected to.
    pub(crate) fn start(
        connected: Connected<R>,
        rules: Rules,
        (caching, limit): (Caching, Limit),
        meters: Meters,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let (news, told) = News::new();
        let Connected {
            worker,
            register,
            secret,
            first,
            timeline,
            seed,
        } = connected;
        let time = ServerTime::new(timeline);
        let access = Access {
            shared: Arc::new(Decider {
                register,
                secret,
                rules,
                observer,
                first: watched(first, &time),
                time,
                own: Mutex::default(),
                versions: Versions::after(seed),
                replies: Replies::new(caching),
                news,
                running: Arc::default(),
                looking: tokio::sync::Mutex::default(),
                disowning: AtomicUsize::new(0),
                reach: Reach::default(),
                meters: meters.clone(),
                room: Room::new(limit),
            }),
            jobs: worker.jobs().clone(),
        };
        news::start(&access.jobs, &access.shared, told);
        watch::start(&access.jobs, &access.shared);
        Self {
            access,
            meters,
            worker: Mutex::new(Some(worker)),
        }
    }
}

impl<R> Clone for Access<R> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            jobs: self.jobs.clone(),
        }
    }
}

impl<R: Register> Access<R> {
    /// Runs something in the store's own thread and waits for it, whether or not this thread is in another one's.
    fn waited<T, F>(&self, work: impl FnOnce(Arc<Decider<R>>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let run = self.shared.running.begin().ok_or_else(Error::closed)?;
        let work = work(Arc::clone(&self.shared));
        let work = async move {
            let result = work.await;
            drop(run);
            result
        };
        waited_in(&self.jobs, work)?
    }

    /// Runs something in the store's own runtime, within its time, whether or not anybody waits for it.
    fn later<T, F>(&self, work: impl FnOnce(Arc<Decider<R>>) -> F) -> Later<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        if let Some(run) = self.shared.running.begin() {
            let shared = Arc::clone(&self.shared);
            let work = work(Arc::clone(&shared));
            self.jobs.run(async move {
                drop(sender.send(shared.in_time(work).await));
                drop(run);
            });
        }
        Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(Error::closed())) })
    }

    /// Some of the cells.
    pub(super) fn page(&self, from: Option<Cursor>, most: usize) -> Result<Page> {
        self.waited(move |shared| async move {
            let page = async {
                let asked = shared.time.asking();
                let page = shared.register.scan(from, most).await;
                let page = page.map_err(Refused::into_error)?;
                if !page.values.is_empty() {
                    shared.time.learn(asked, Timestamp(page.now_ms));
                }
                Ok(page)
            };
            shared.in_time(page).await
        })
    }
}

impl<R: Register> Store for RegisterStore<R> {
    fn secret(&self) -> &Secret {
        &self.access.shared.secret
    }

    fn glance(&self, digest: &Digest, command: &Command, _: Reads) -> Result<Glance> {
        self.condition()?;
        let shared = &self.access.shared;
        let now = shared.time.latest();
        let Some(stored) = shared.replies.get(digest, now) else {
            return Ok(Glance::Write(Seen::default()));
        };
        self.meters.found_in_cache();
        let context = Context {
            now,
            next_token: 0,
            full: None,
            on_abandon: shared.rules.on_abandon,
        };
        let decision = decision::decide(Some(&stored.record), command, &context);
        Ok(Glance::of(decision, Seen::default()))
    }

    fn ask(&self, digest: &Digest, command: &Command) -> Option<Later<Glance>> {
        let (digest, command) = (*digest, command.clone());
        Some(self.access.later(move |shared| async move {
            let view = shared.load(digest).await?;
            let held = view.value.as_ref();
            let held = held.map(|value| Held::of(value, &digest)).transpose()?;
            let last_token = held.as_ref().map_or(0, |held| held.token);
            let context = shared.context(&view, last_token);
            let record = held.as_ref().and_then(Held::record);
            let decision = decision::decide(record, &command, &context);
            Ok(Glance::of(decision, Seen::default()))
        }))
    }

    fn load(&self, digest: &Digest) -> Result<Option<Stored>> {
        let digest = *digest;
        self.access
            .waited(move |shared| async move { shared.in_time(shared.live(digest)).await })
    }

    fn ask_for(&self, digest: &Digest) -> Option<Later<Option<Stored>>> {
        let digest = *digest;
        let live = move |shared: Arc<Decider<R>>| async move { shared.live(digest).await };
        Some(self.access.later(live))
    }

    fn local(&self, at: Timestamp) -> Timestamp {
        self.access.shared.time.local(at)
    }

    /// Whatever the clocks do, it is no longer than the lease.
    fn lease_end(&self, sent: Timestamp, lease: Duration, until: Timestamp) -> Timestamp {
        if mutant::is_on(Mutant::LeaseByServersClock) {
            return until;
        }
        sent.plus(lease).min(self.local(until))
    }

    fn submit(&self, request: Request, answer: Answer) {
        let Access { shared, jobs } = self.access.clone();
        let Some(run) = shared.running.begin() else {
            return answer.send(Err(Error::closed()));
        };
        if answer.is_ignored() {
            return jobs.run(shared.release_unseen(request, run));
        }
        jobs.run(async move {
            let verdict = shared.carry_out(request).await;
            due::answer(answer, verdict, run);
        });
    }

    fn in_flight(&self) -> Result<Vec<Arc<Stored>>> {
        // A cell may be on several pages.
        let mut in_flight = HashMap::new();
        for stored in self.live().flatten() {
            let stored = stored?;
            match stored.record {
                Record::InFlight(_) => in_flight.insert(stored.digest, Arc::new(stored)),
                Record::Completed(_) => in_flight.remove(&stored.digest),
            };
        }
        Ok(in_flight.into_values().collect())
    }

    fn sweep(&self) -> Result<Swept> {
        self.access.waited(|shared| async move {
            shared.prune_own();
            shared.in_time(shared.look_at_first()).await?;
            let mut records = 0;
            while !shared.running.is_closed() {
                let sweep = async {
                    let swept = shared.register.sweep().await;
                    swept.map_err(Refused::into_error)
                };
                match shared.in_time(sweep).await? {
                    0 => break,
                    some => records += some,
                }
            }
            Ok(Swept {
                records,
                segments: 0,
            })
        })
    }

    fn looks_again_after(&self) -> Option<Duration> {
        Some(FIRST_LOOK)
    }

    /// Nobody counts them: a count would take as long as to walk through all.
    fn live_keys(&self) -> u64 {
        0
    }

    fn figures(&self) -> Figures {
        Figures {
            in_flight: self.access.shared.own.lock().len() as u64,
            queued: self.access.shared.running.commands() as u64,
            replay_cache_bytes: self.access.shared.replies.bytes(),
            refused_overloaded: self.access.shared.room.refused(),
            register_losses: self.access.shared.first.losses(),
            ..Figures::default()
        }
    }

    fn verify(&self, tell: &mut dyn FnMut(Progress)) -> Result<Verification> {
        let mut found = Verification::default();
        for page in Walk::new(self.access.clone()) {
            for walked in page? {
                found.entries += 1;
                if let Err(error) = walked.stored {
                    found.note("the store's server", error.to_string());
                }
            }
            tell(Progress::new(
                Stage::Verifying,
                found.entries,
                found.entries,
            ));
        }
        Ok(found)
    }

    fn export(&self) -> Chunks {
        Box::new(self.live())
    }

    fn database(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.access.shared.register)
    }

    fn draft(&self, completion: Request) -> Option<Later<Draft>> {
        let draft = move |shared: Arc<Decider<R>>| async move { shared.draft(completion).await };
        Some(self.access.later(draft))
    }

    fn mistaken(&self, digest: &Digest) {
        self.access.shared.mistaken(digest);
    }

    fn confirmed(&self, digest: &Digest, token: u64) -> Option<Later<bool>> {
        let digest = *digest;
        let confirmed =
            move |shared: Arc<Decider<R>>| async move { shared.confirmed(digest, token).await };
        Some(self.access.later(confirmed))
    }

    fn condition(&self) -> Result<()> {
        if self.access.shared.running.is_closed() {
            return Err(Error::closed());
        }
        Ok(())
    }

    fn readiness(&self) -> Result<()> {
        self.condition()?;
        let shared = &self.access.shared;
        shared.reach.check()?;
        shared.first.check(shared.time.asking())
    }

    fn close(&self) -> Result<()> {
        self.access.shared.room.close();
        self.access.shared.running.close();
        if let Some(worker) = self.worker.lock().take() {
            drop(worker);
            self.access.shared.observer.stopped();
        }
        Ok(())
    }
}

impl<R: Register> RegisterStore<R> {
    /// Everything that isn't over, page by page.
    fn live(&self) -> impl Iterator<Item = Vec<Result<Stored>>> + Send + 'static {
        let shared = Arc::clone(&self.access.shared);
        let live = move |walked: Walked| match walked.stored {
            Ok(stored) => stored
                .filter(|stored| shared.is_live(stored, walked.now))
                .map(Ok),
            Err(error) => Some(Err(error)),
        };
        Walk::new(self.access.clone()).map(move |page| match page {
            Ok(page) => page.into_iter().filter_map(&live).collect(),
            Err(error) => vec![Err(error)],
        })
    }
}

impl<R> fmt::Debug for RegisterStore<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterStore").finish_non_exhaustive()
    }
}
