//! One request's way to a grant, the same for every framework.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Response};
use http_body::Body;
use onceward::layer::Approached;
use onceward::{Engine, Error, ErrorKind, Fingerprint, Guard, Key, Outcome, Result, Terms};
use tokio::select;

use super::attempt::{Attempt, Disposition};
use super::execution::Execution;
use super::gather::{Gathered, gather};
use super::options::{DEFAULT_MAX_RUNNING, Options};
use super::running::{Drain, Slot};
use super::scope::Scope;
use super::settlement::PendingBytes;
use crate::profile::{Admission, Content, Occasion, Profile, Reason};

/// What a layer is made of, whatever the framework. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) profile: Profile,
    pub(crate) options: Options,
    pub(crate) drain: Drain,
    pub(crate) pending: PendingBytes,
}

/// What becomes of a request, as far as its head tells.
pub(crate) enum Way {
    /// To the handler, untouched.
    Pass,
    /// Through the engine.
    Engine(Entry),
    /// Back to the client.
    Back(Response<Content>),
}

/// A request with a sound key.
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) occasion: Occasion,
}

/// What the engine answers.
enum Asked {
    Granted(Granted),
    Settled(Outcome),
}

/// A grant, and the slot that its handler runs in.
pub(crate) struct Granted {
    pub(crate) guard: Guard,
    pub(crate) slot: Slot,
    pub(crate) fingerprint: Fingerprint,
}

impl Exchange {
    pub(crate) fn new(engine: Engine, profile: Profile) -> Self {
        Self {
            shared: Arc::new(Shared {
                engine,
                profile,
                options: Options::default(),
                drain: Drain::new(DEFAULT_MAX_RUNNING),
                pending: PendingBytes::default(),
            }),
        }
    }

    pub(crate) fn with(&self, options: Options) -> Result<Self> {
        let mut shared = (*self.shared).clone();
        shared.options = options.check()?;
        if let Some(handlers) = shared.options.max_running {
            shared.drain = Drain::new(handlers);
        }
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// What becomes of a request. `scope` is asked only if there is a sound key.
    pub(crate) fn way(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        scope: impl FnOnce() -> Scope,
    ) -> Way {
        let profile = &self.shared.profile;
        let reason = match profile.admit(method, path, headers) {
            Admission::Pass => return Way::Pass,
            Admission::Refused(reason) => reason,
            Admission::Keyed(key) => match scope().key(&key, &self.shared.engine) {
                Ok(key) => {
                    let occasion = profile.occasion(headers);
                    return Way::Engine(Entry { key, occasion });
                }
                Err(reason) => reason,
            },
        };
        Way::Back(self.refusal(&profile.occasion(headers), reason))
    }

    /// A request's whole body.
    pub(crate) async fn read<B: Body>(
        &self,
        body: B,
        occasion: &Occasion,
    ) -> Result<Content, Response<Content>> {
        let max_bytes = self.shared.options.max_body_bytes;
        let reason = match gather(pin!(body), max_bytes, pending()).await {
            Gathered::Whole(content) => return Ok(content),
            Gathered::Larger(_) => Reason::BodyTooLarge { max_bytes },
            Gathered::Broken(..) => Reason::BodyUnreadable,
        };
        Err(self.refusal(occasion, reason))
    }

    /// Asks the engine; gives the right to run the handler, or the answer.
    ///
    /// Dropping the future is safe: a grant that it didn't give is released at once.
    pub(crate) fn begin(
        &self,
        entry: Entry,
        head: &Parts,
        body: &Bytes,
    ) -> impl Future<Output = Result<Execution, Response<Content>>> + Send + use<> {
        let Shared {
            engine, options, ..
        } = &*self.shared;
        let fingerprint = options.fingerprint(head, body);
        let terms = options.terms(head, engine.terms());
        let exchange = self.clone();
        async move {
            let Entry { key, occasion } = entry;
            let asked = match fingerprint {
                Ok(fingerprint) => exchange.ask(&key, fingerprint, terms).await,
                Err(error) => Err(error),
            };
            match asked {
                Ok(Asked::Granted(grant)) => Ok(Execution::new(exchange, grant, occasion)),
                Ok(Asked::Settled(outcome)) => Err(exchange.settled(&occasion, outcome)),
                Err(error) => Err(exchange.refusal(&occasion, Reason::Unavailable(error.kind()))),
            }
        }
    }

    async fn ask(&self, key: &Key, fingerprint: Fingerprint, terms: Terms) -> Result<Asked> {
        let Shared { engine, drain, .. } = &*self.shared;
        let opening = match engine.approach(key, &fingerprint, terms).await? {
            Approached::Settled(outcome) => return Ok(Asked::Settled(outcome)),
            Approached::Open(opening) => opening,
        };
        let slot = match drain.try_slot() {
            Some(slot) => slot,
            // A replay needs none.
            None => match opening.look().await? {
                Some(outcome) => return Ok(Asked::Settled(outcome)),
                None => self.slot_in_time().await?,
            },
        };
        Ok(match opening.begin().await? {
            Outcome::Proceed(guard) => Asked::Granted(Granted {
                guard,
                slot,
                fingerprint,
            }),
            other => Asked::Settled(other),
        })
    }

    async fn slot_in_time(&self) -> Result<Slot> {
        let Shared {
            engine,
            drain,
            options,
            ..
        } = &*self.shared;
        let patience = engine.sleep_until(engine.moment_in(options.slot_wait));
        select! {
            biased;
            slot = drain.next_slot() => Ok(slot),
            () = patience => Err(Error::new(
                ErrorKind::Overloaded,
                "as many handlers are running as may; raise max_running",
            )),
        }
    }

    /// What each retry gets, where another attempt has taken the key over and stands.
    pub(crate) async fn standing(
        &self,
        occasion: &Occasion,
        key: &Key,
        fingerprint: &Fingerprint,
    ) -> Option<Response<Content>> {
        let engine = &self.shared.engine;
        let approached = engine.approach(key, fingerprint, engine.terms()).await;
        let outcome = match approached.ok()? {
            Approached::Settled(outcome) => outcome,
            Approached::Open(opening) => opening.look().await.ok()??,
        };
        Some(self.settled(occasion, outcome))
    }

    /// The answer where no handler may run.
    pub(crate) fn settled(&self, occasion: &Occasion, outcome: Outcome) -> Response<Content> {
        match outcome {
            Outcome::Replay(reply) => {
                let mut response = self.shared.profile.replay(occasion, &reply);
                response.extensions_mut().insert(Disposition::Replayed);
                response
            }
            Outcome::Conflict(conflict) => self.refusal(occasion, Reason::Conflict(conflict)),
            Outcome::InFlight(in_flight) => self.refusal(occasion, Reason::InFlight(in_flight)),
            Outcome::Proceed(_) => unreachable!("a grant runs the handler"),
        }
    }

    pub(crate) fn refusal(&self, occasion: &Occasion, reason: Reason) -> Response<Content> {
        let mut response = self.shared.profile.refuse(occasion, &reason);
        response
            .extensions_mut()
            .insert(Disposition::Refused(reason));
        response
    }
}

impl Attempt {
    pub(crate) fn of(guard: &Guard) -> Self {
        Self {
            key: guard.key().clone(),
            number: guard.attempt(),
            token: guard.token(),
            lease: Arc::clone(guard.lease()),
        }
    }
}
