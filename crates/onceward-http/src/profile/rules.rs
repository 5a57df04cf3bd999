//! A profile: the promises of one API.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue, LINK};
use http::{Method, Response};
use onceward::ErrorKind;

use super::answer::{Answer, Reason, Refusal};
use super::builder::ProfileBuilder;
use super::fields::FieldPolicy;
use super::keep::{Answered, Keep, is_told_at_the_end};
use super::key_syntax::KeySyntax;
use super::occasion::Occasion;
use super::replay::Content;

/// Until some of a scope's keys expire, which takes up to a retention.
const SCOPE_FULL_RETRY_AFTER: Duration = Duration::from_secs(60);

/// What an API promises about its idempotency keys; see the [module](super) for the four that there are.
///
/// Cloning is cheap. Retention and lease aren't part of it: they are the engine's
/// [`Terms`](onceward::Terms), 24 hours and 2 minutes unless set otherwise, as Deck and Deel have them.
#[derive(Clone)]
pub struct Profile {
    pub(super) rules: Arc<Rules>,
}

#[derive(Clone)]
pub(super) struct Rules {
    pub(super) name: &'static str,
    pub(super) methods: Vec<Method>,
    pub(super) header: HeaderName,
    pub(super) syntax: KeySyntax,
    pub(super) max_key_chars: usize,
    pub(super) format: Option<Format>,
    pub(super) required: Required,
    pub(super) keep: Keep,
    /// One for each refusal, in the order of their numbers.
    pub(super) answers: Vec<Answer>,
    pub(super) held_retry_after: Duration,
    pub(super) unavailable_retry_after: Duration,
    pub(super) replay_mark: Option<(HeaderName, HeaderValue)>,
    pub(super) original_request_id: Option<HeaderName>,
    pub(super) request_id: Option<HeaderName>,
    /// What names the page of the API's policy on each refusal.
    pub(super) policy_link: Option<HeaderValue>,
    pub(super) fields: FieldPolicy,
}

/// A format that keys must have: its name, and whether a key has it.
pub(super) type Format = (Arc<str>, Arc<dyn Fn(&str) -> bool + Send + Sync>);

type RequiredRule = dyn Fn(&Method, &str) -> bool + Send + Sync;

/// Which operations require a key.
#[derive(Clone)]
pub(super) enum Required {
    Never,
    Always,
    Where(Arc<RequiredRule>),
}

impl Required {
    pub(super) fn holds(&self, method: &Method, path: &str) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Where(rule) => rule(method, path),
        }
    }
}

impl Profile {
    /// A builder that starts from [`deck`](Self::deck): a bare key of at most 256 characters on POST, optional, every
    /// answer kept, Deck's shape of errors, 409 for another request and for one that is still running,
    /// `idempotent-replayed: true` on replays and `x-request-id` on every answer to a request with a key.
    pub fn builder() -> ProfileBuilder {
        Self::deck().to_builder().named("custom")
    }

    /// A builder that starts from this profile.
    pub fn to_builder(&self) -> ProfileBuilder {
        ProfileBuilder::new((*self.rules).clone())
    }

    /// The header that carries the key.
    pub fn header(&self) -> &HeaderName {
        &self.rules.header
    }

    /// Whether the profile covers the method.
    pub fn covers(&self, method: &Method) -> bool {
        self.rules.methods.contains(method)
    }

    /// What answers need to know of the request with these headers.
    pub fn occasion(&self, headers: &HeaderMap) -> Occasion {
        Occasion::new(headers, self.rules.request_id.as_ref())
    }

    /// The answer to a request that isn't carried out.
    pub fn refuse(&self, occasion: &Occasion, reason: &Reason) -> Response<Content> {
        let wait = match reason {
            Reason::InFlight(in_flight) if in_flight.is_held() => Some(self.rules.held_retry_after),
            Reason::InFlight(in_flight) => Some(in_flight.retry_after()),
            Reason::Unavailable(ErrorKind::ScopeFull) => Some(SCOPE_FULL_RETRY_AFTER),
            Reason::Unavailable(_) | Reason::Interrupted => {
                Some(self.rules.unavailable_retry_after)
            }
            _ => None,
        };
        let mut response = self
            .answer_to(reason.refusal())
            .render(occasion, reason, wait);
        if let Some(link) = &self.rules.policy_link {
            response.headers_mut().append(LINK, link.clone());
        }
        self.identify(response.headers_mut(), occasion);
        response
    }

    fn answer_to(&self, refusal: Refusal) -> &Answer {
        &self.rules.answers[refusal as usize]
    }

    /// Whether an answer is kept for retries. One that isn't frees its key.
    pub fn keeps(&self, answered: &Answered<'_>) -> bool {
        self.rules.keep.keeps(answered)
    }

    /// Whether it takes an answer's trailers to tell if it is kept: for gRPC, unless every answer is.
    pub fn decides_by_trailers(&self, headers: &HeaderMap) -> bool {
        !matches!(self.rules.keep, Keep::Every) && is_told_at_the_end(headers)
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = &*self.rules;
        f.debug_struct("Profile")
            .field("name", &rules.name)
            .field("methods", &rules.methods)
            .field("header", &rules.header)
            .field("syntax", &rules.syntax)
            .field("keep", &rules.keep)
            .finish_non_exhaustive()
    }
}
