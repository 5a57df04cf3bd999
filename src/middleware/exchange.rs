//! One request's way to a grant, the same for every framework.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Response};
use http_body::Body;

use super::attempt::{Attempt, Disposition};
use super::execution::Execution;
use super::gather::{Gathered, gather};
use super::lease::{First, first};
use super::options::{DEFAULT_MAX_RUNNING, Options};
use super::running::{Drain, Slot};
use super::scope::Scope;
use crate::engine::{Engine, Guard};
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::Fingerprint;
use crate::http::{Admission, Content, Occasion, Profile, Reason};
use crate::key::Key;
use crate::limits::Terms;
use crate::outcome::Outcome;

/// What a layer is made of, whatever the framework. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) shared: Arc<Shared>,
}

#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) profile: Profile,
    pub(super) options: Options,
    pub(super) drain: Drain,
}

/// What becomes of a request, as far as its head tells.
pub(super) enum Way {
    /// To the handler, untouched.
    Pass,
    /// Through the engine.
    Engine(Entry),
    /// Back to the client.
    Back(Response<Content>),
}

/// A request with a sound key.
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) occasion: Occasion,
}

/// What the engine is asked.
struct Question {
    key: Key,
    fingerprint: Fingerprint,
    terms: Terms,
}

impl Exchange {
    pub(super) fn new(engine: Engine, profile: Profile) -> Self {
        Self {
            shared: Arc::new(Shared {
                engine,
                profile,
                options: Options::default(),
                drain: Drain::new(DEFAULT_MAX_RUNNING),
            }),
        }
    }

    pub(super) fn with(&self, options: Options) -> Result<Self> {
        let mut shared = (*self.shared).clone();
        shared.options = options.check()?;
        if let Some(handlers) = shared.options.max_running {
            shared.drain = Drain::new(handlers);
        }
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    pub(super) fn way(&self, method: &Method, path: &str, headers: &HeaderMap) -> Way {
        let profile = &self.shared.profile;
        match profile.admit(method, path, headers) {
            Admission::Pass => Way::Pass,
            Admission::Keyed(key) => Way::Engine(Entry {
                key: key.into_owned(),
                occasion: profile.occasion(headers),
            }),
            Admission::Refused(reason) => {
                Way::Back(self.refusal(&profile.occasion(headers), reason))
            }
        }
    }

    /// A request's whole body.
    pub(super) async fn read<B: Body>(
        &self,
        body: B,
        occasion: &Occasion,
    ) -> Result<Content, Response<Content>> {
        let max_bytes = self.shared.options.max_body_bytes;
        let reason = match gather(pin!(body), max_bytes).await {
            Gathered::Whole(content) => return Ok(content),
            Gathered::Larger(_) => Reason::BodyTooLarge { max_bytes },
            Gathered::Broken(..) => Reason::BodyUnreadable,
        };
        Err(self.refusal(occasion, reason))
    }

    /// Asks the engine; gives the right to run the handler, or the answer.
    ///
    /// Dropping the future is safe: a grant that it didn't give is released at once.
    pub(super) fn begin(
        &self,
        entry: Entry,
        scope: &Scope,
        head: &Parts,
        body: &Bytes,
    ) -> impl Future<Output = Result<Execution, Response<Content>>> + Send + use<> {
        let question = self.question(&entry.key, scope, head, body);
        let exchange = self.clone();
        async move {
            let occasion = entry.occasion;
            let question = question.map_err(|reason| exchange.refusal(&occasion, reason))?;
            let outcome = exchange.ask(&question).await;
            match outcome {
                Ok((Outcome::Proceed(guard), slot)) => Ok(Execution::new(
                    exchange,
                    guard,
                    slot,
                    question.fingerprint,
                    occasion,
                )),
                Ok((settled, _)) => Err(exchange.settled(&occasion, settled)),
                Err(kind) => Err(exchange.refusal(&occasion, Reason::Unavailable(kind))),
            }
        }
    }

    fn question(
        &self,
        key: &str,
        scope: &Scope,
        head: &Parts,
        body: &Bytes,
    ) -> Result<Question, Reason> {
        let Shared {
            engine, options, ..
        } = &*self.shared;
        let fingerprint = options.fingerprint(head, body);
        Ok(Question {
            key: scope.key(key)?,
            fingerprint: fingerprint.map_err(|error| Reason::Unavailable(error.kind()))?,
            terms: options.terms(head, engine.terms()),
        })
    }

    async fn ask(&self, question: &Question) -> Result<(Outcome, Option<Slot>), ErrorKind> {
        let Question {
            key,
            fingerprint,
            terms,
        } = question;
        let engine = &self.shared.engine;
        let kind = |error: Error| error.kind();
        let slot = match self.shared.drain.try_slot() {
            Some(slot) => slot,
            None => match engine.standing(key, fingerprint).await.map_err(kind)? {
                Some(outcome) => return Ok((outcome, None)),
                None => self.slot_in_time().await.ok_or(ErrorKind::Overloaded)?,
            },
        };
        let outcome = engine
            .begin_with_async(key, fingerprint, *terms)
            .await
            .map_err(kind)?;
        Ok((outcome, Some(slot)))
    }

    async fn slot_in_time(&self) -> Option<Slot> {
        let Shared {
            engine,
            drain,
            options,
            ..
        } = &*self.shared;
        let patience = pin!(engine.sleep(options.slot_wait));
        match first(pin!(drain.next_slot()), patience).await {
            First::Left(slot) => Some(slot),
            First::Right(()) => None,
        }
    }

    /// The answer where no handler may run.
    pub(super) fn settled(&self, occasion: &Occasion, outcome: Outcome) -> Response<Content> {
        match outcome {
            Outcome::Replay(reply) => {
                let mut response = self.shared.profile.replay(occasion, &reply);
                response.extensions_mut().insert(Disposition::Replayed);
                response
            }
            Outcome::Conflict(conflict) => self.refusal(occasion, Reason::Conflict(conflict)),
            Outcome::InFlight(in_flight) => self.refusal(occasion, Reason::InFlight(in_flight)),
            // Nothing runs here: the guard is dropped, and its lease ends.
            Outcome::Proceed(_) => {
                self.refusal(occasion, Reason::Unavailable(ErrorKind::LeaseLost))
            }
        }
    }

    pub(super) fn refusal(&self, occasion: &Occasion, reason: Reason) -> Response<Content> {
        let mut response = self.shared.profile.refuse(occasion, &reason);
        response
            .extensions_mut()
            .insert(Disposition::Refused(reason));
        response
    }
}

impl Attempt {
    pub(super) fn of(guard: &Guard) -> Self {
        Self {
            key: guard.key().clone(),
            number: guard.attempt(),
            token: guard.token(),
        }
    }
}
