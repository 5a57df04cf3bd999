//! One run of a handler: under its lease, and settled before its answer leaves.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, response};
use http_body::Body;
use onceward::layer::Timestamp;
use onceward::{Fingerprint, Guard, Result};
use tokio::task::JoinHandle;

use super::attempt::{Attempt, Disposition, Fate};
use super::body::LayerBody;
use super::exchange::{Exchange, Granted, Shared};
use super::gather::{Gathered, gather};
use super::lease::under_lease;
use super::running::Slot;
use super::settlement::{Later, Settlement, tried};
use crate::mutant::{self, Mutant};
use crate::profile::{Answered, Content, Occasion, Profile};
use crate::spans::follow;

/// The right to run a request's handler, with all that it takes to answer.
pub(crate) struct Execution {
    exchange: Exchange,
    guard: Guard,
    fingerprint: Fingerprint,
    occasion: Occasion,
    /// Held until the answer is settled.
    slot: Slot,
}

/// A handler's answer, read as far as it has to be.
struct Answer<B: Body> {
    head: response::Parts,
    text: Text<B>,
}

enum Text<B: Body> {
    /// The profile doesn't keep it, as its head tells.
    Unread(B),
    Whole {
        content: Content,
        is_kept: bool,
    },
    Larger(Bytes, Pin<Box<B>>),
    Broken(Bytes, B::Error),
}

impl Execution {
    pub(crate) fn new(exchange: Exchange, granted: Granted, occasion: Occasion) -> Self {
        Self {
            exchange,
            guard: granted.guard,
            fingerprint: granted.fingerprint,
            occasion,
            slot: granted.slot,
        }
    }

    pub(crate) fn occasion(&self) -> &Occasion {
        &self.occasion
    }

    pub(crate) fn attempt(&self) -> Attempt {
        Attempt::of(&self.guard)
    }

    /// Runs the handler, keeps or releases what it answered, and gives the answer for the client.
    /// The lease is kept running all the while.
    ///
    /// If the handler fails with an error of its own, panics, or the future is dropped, the key is abandoned.
    pub(crate) async fn run<B: Body, E>(
        self,
        handler: impl Future<Output = Result<Response<B>, E>>,
    ) -> Result<Response<LayerBody<B>>, E> {
        let shared = self.exchange.shared.clone();
        let lease = Arc::clone(self.guard.lease());
        let renew_until = shared.engine.moment_in(shared.options.renew_for);
        let work = async {
            let answer = handler.await?;
            let answer = read(answer, &shared).await;
            Ok(self.settle(answer, renew_until).await)
        };
        under_lease(&lease, renew_until, work).await
    }

    async fn settle<B: Body>(
        self,
        answer: Answer<B>,
        renew_until: Timestamp,
    ) -> Response<LayerBody<B>> {
        let Self {
            exchange,
            guard,
            fingerprint,
            occasion,
            slot,
        } = self;
        let profile = &exchange.shared.profile;
        let attempt = guard.attempt();
        let key = guard.key().clone();
        let settlement = settlement(profile, &occasion, &answer);
        let note = || profile.note(&occasion, &answer.head);
        let fate = match tried(guard, settlement, note).await {
            Ok(fate) => fate,
            Err(_) if mutant::is_on(Mutant::CompletionGivenUp) => Fate::Abandoned,
            // The client needn't wait for what can be done without it.
            Err(unsettled) => {
                let later = Later::new(&exchange.shared, unsettled, renew_until, note);
                tokio::spawn(follow(later.settle(slot)));
                Fate::Pending
            }
        };
        if fate == Fate::TakenOver
            && let Some(response) = exchange.standing(&occasion, &key, &fingerprint).await
        {
            return response.map(LayerBody::kept);
        }
        let mut response = answer.into_response();
        profile.identify(response.headers_mut(), &occasion);
        let disposition = Disposition::Executed {
            attempt,
            answer: fate,
        };
        response.extensions_mut().insert(disposition);
        response
    }
}

/// The outcome of a handler's task; `None` if the runtime ended before the handler did. A panic goes on where it
/// would have gone without the layer.
pub(crate) async fn joined<T>(task: JoinHandle<T>) -> Option<T> {
    match task.await {
        Ok(output) => Some(output),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => None,
        },
    }
}

/// Reads as much of an answer as it takes to keep it.
async fn read<B: Body>(answer: Response<B>, shared: &Shared) -> Answer<B> {
    let Shared {
        engine,
        profile,
        options,
        ..
    } = shared;
    let (head, body) = answer.into_parts();
    let keeps = |trailers| profile.keeps(&Answered::new(head.status, &head.headers, trailers));
    let told_by_head = (!profile.decides_by_trailers(&head.headers)).then(|| keeps(None));
    if told_by_head == Some(false) {
        return Answer {
            head,
            text: Text::Unread(body),
        };
    }
    let mut body = Box::pin(body);
    let end = engine.moment_in(options.answer_time);
    let patience = async { engine.sleep_until(end).await };
    let text = match gather(body.as_mut(), engine.max_reply_bytes(), patience).await {
        Gathered::Whole(content) => {
            let is_kept = told_by_head.unwrap_or_else(|| keeps(content.trailers.as_ref()));
            Text::Whole { content, is_kept }
        }
        Gathered::Larger(bytes) => Text::Larger(bytes, body),
        Gathered::Broken(bytes, error) => Text::Broken(bytes, error),
    };
    Answer { head, text }
}

fn settlement<B: Body>(profile: &Profile, occasion: &Occasion, answer: &Answer<B>) -> Settlement {
    let head = &answer.head;
    match &answer.text {
        Text::Unread(_) | Text::Whole { is_kept: false, .. } => Settlement::Release,
        Text::Whole { content, .. } => Settlement::Keep(profile.reply(occasion, head, content)),
        // Whatever its trailers would say: the handler has run, and must not run again.
        Text::Larger(..) => Settlement::KeepNote(profile.note(occasion, head)),
        Text::Broken(..) => Settlement::Abandon,
    }
}

impl<B: Body> Answer<B> {
    fn into_response(self) -> Response<LayerBody<B>> {
        let body = match self.text {
            Text::Unread(body) => LayerBody::passed(body),
            Text::Whole { content, .. } => LayerBody::kept(content),
            Text::Larger(bytes, rest) => LayerBody::spliced(bytes, rest),
            Text::Broken(bytes, error) => LayerBody::broken(bytes, error),
        };
        Response::from_parts(self.head, body)
    }
}
