//! Profiles of one's own.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use onceward::limits::{MAX_KEY_BYTES, check_number};
use onceward::{Error, ErrorKind, Result};

use super::answer::{Answer, Refusal};
use super::keep::{Answered, Keep};
use super::key_syntax::KeySyntax;
use super::rules::{Profile, Required, Rules};

/// Builds a [`Profile`]; from [`Profile::builder`] or [`Profile::to_builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ProfileBuilder {
    profile: Profile,
    policy_url: Option<String>,
}

impl ProfileBuilder {
    pub(super) fn new(rules: Rules) -> Self {
        let rules = Arc::new(rules);
        Self {
            profile: Profile { rules },
            policy_url: None,
        }
    }

    fn set(mut self, change: impl FnOnce(&mut Rules)) -> Self {
        change(Arc::make_mut(&mut self.profile.rules));
        self
    }

    pub(super) fn named(self, name: &'static str) -> Self {
        self.set(|rules| rules.name = name)
    }

    /// The methods that the profile covers. Requests with others are never touched.
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.set(|rules| rules.methods = methods.into_iter().collect())
    }

    /// The header that carries the key; `idempotency-key` unless it is set.
    pub fn header(self, name: HeaderName) -> Self {
        self.set(|rules| rules.header = name)
    }

    /// How the header's value is read.
    pub fn key_syntax(self, syntax: KeySyntax) -> Self {
        self.set(|rules| rules.syntax = syntax)
    }

    /// The most characters (Unicode scalar values) that a key may have: 1 to 1,024. A key whose text takes
    /// more than 1,024 bytes is malformed in any case.
    pub fn max_key_chars(self, chars: usize) -> Self {
        self.set(|rules| rules.max_key_chars = chars)
    }

    /// A format that keys must have, such as `"a UUID"`, checked before anything is looked up; the
    /// draft recommends one (section 5). The name is told to clients whose key doesn't have it.
    pub fn key_format(
        self,
        name: impl Into<Arc<str>>,
        is_met: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.set(|rules| rules.format = Some((name.into(), Arc::new(is_met))))
    }

    /// Whether every request that the profile covers has to have a key.
    pub fn require_key(self, is_required: bool) -> Self {
        self.set(|rules| {
            rules.required = if is_required {
                Required::Always
            } else {
                Required::Never
            };
        })
    }

    /// Which operations require a key, told from method and path.
    pub fn require_key_where(
        self,
        rule: impl Fn(&Method, &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.set(|rules| rules.required = Required::Where(Arc::new(rule)))
    }

    /// Keeps every answer, once the handler has run.
    pub fn keep_every_answer(self) -> Self {
        self.set(|rules| rules.keep = Keep::Every)
    }

    /// Keeps successes only: 2xx, and for gRPC the status 0. Other answers free their key: only for handlers whose
    /// errors mean that nothing has happened, since a retry runs them again at once, as attempt 1.
    pub fn keep_successes(self) -> Self {
        self.set(|rules| rules.keep = Keep::Success)
    }

    /// Keeps the answers for which the rule holds. Others free their key at once: a retry runs again.
    pub fn keep_where(self, rule: impl Fn(&Answered<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.set(|rules| rules.keep = Keep::Rule(Arc::new(rule)))
    }

    /// The answer to requests that are refused for this reason, in place of the one that there is.
    pub fn answer(self, refusal: Refusal, answer: Answer) -> Self {
        self.set(|rules| {
            let place = &mut rules.answers[refusal as usize];
            *place = answer.in_place_of(place);
        })
    }

    /// Every answer anew, for an API with a shape of errors of its own.
    pub fn answers(self, answer: impl Fn(Refusal) -> Answer) -> Self {
        Refusal::ALL.iter().fold(self, |builder, refusal| {
            builder.answer(*refusal, answer(*refusal))
        })
    }

    /// Names the page that describes the API's policy for keys, in a `link` header with
    /// `rel="describedby"` on every refusal, as the draft has it (section 2.7).
    pub fn policy_url(mut self, url: impl Into<String>) -> Self {
        self.policy_url = Some(url.into());
        self
    }

    /// What `retry-after` says for an attempt that was abandoned and waits for an operator
    /// ([`OnAbandon::Hold`](onceward::OnAbandon::Hold)); 60 s unless it is set.
    pub fn held_retry_after(self, wait: Duration) -> Self {
        self.set(|rules| rules.held_retry_after = wait)
    }

    /// What `retry-after` says when the engine can't answer; 1 s unless it is set.
    pub fn unavailable_retry_after(self, wait: Duration) -> Self {
        self.set(|rules| rules.unavailable_retry_after = wait)
    }

    /// Marks replays with this header, or with none.
    pub fn replay_mark(self, mark: Option<(HeaderName, HeaderValue)>) -> Self {
        self.set(|rules| rules.replay_mark = mark)
    }

    /// Names the first request's id in this header of a replay, or in none.
    pub fn original_request_id(self, name: Option<HeaderName>) -> Self {
        self.set(|rules| rules.original_request_id = name)
    }

    /// The header that carries a request's id; without one, ids are generated only for bodies that show them.
    pub fn request_id(self, name: Option<HeaderName>) -> Self {
        self.set(|rules| rules.request_id = name)
    }

    /// Gives retries this header too, which is left out otherwise: `set-cookie`, `date`, and what carries
    /// credentials. Fields of the connection, such as `transfer-encoding`, can't be given again.
    pub fn replay_header(self, name: HeaderName) -> Self {
        self.set(|rules| rules.fields.keep(name))
    }

    /// Leaves this header, or trailer, out of what is kept. The request's id is kept in any case.
    pub fn drop_header(self, name: HeaderName) -> Self {
        self.set(|rules| rules.fields.drop(name))
    }

    /// The profile.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if no method is covered, keys may have 0 or more than 1,024 characters, an
    /// answer has a status that isn't between 200 and 599, the policy's URL can't stand in a header, or replays
    /// are to name the first request's id while requests have none.
    pub fn build(self) -> Result<Profile> {
        let Self {
            mut profile,
            policy_url,
        } = self;
        if profile.rules.methods.is_empty() {
            return Err(invalid(
                "a profile covers at least one method; name it with methods",
            ));
        }
        let chars = profile.rules.max_key_chars as u64;
        check_number("max_key_chars", chars, 1, MAX_KEY_BYTES as u64)?;
        for answer in &profile.rules.answers {
            if let Some(status) = answer.invalid_status() {
                return Err(invalid(&format!(
                    "an answer has the status {status}; it must lie between 200 and 599"
                )));
            }
        }
        if profile.rules.original_request_id.is_some() && profile.rules.request_id.is_none() {
            return Err(invalid(
                "original_request_id needs request_id, the header that the id is taken from",
            ));
        }
        if let Some(url) = policy_url {
            Arc::make_mut(&mut profile.rules).policy_link = Some(link(&url)?);
        }
        Ok(profile)
    }
}

fn link(url: &str) -> Result<HeaderValue> {
    let is_url = !url.is_empty()
        && url
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'>');
    let value = HeaderValue::try_from(format!("<{url}>; rel=\"describedby\""));
    value.ok().filter(|_| is_url).ok_or_else(|| {
        invalid("the policy's URL is empty or holds characters that a URL can't; encode them")
    })
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

/// The whole of a plain profile; the presets say what differs.
pub(super) fn plain(name: &'static str) -> Rules {
    Rules {
        name,
        methods: vec![Method::POST],
        header: HeaderName::from_static("idempotency-key"),
        syntax: KeySyntax::Bare,
        max_key_chars: 256,
        format: None,
        required: Required::Never,
        keep: Keep::Every,
        answers: Refusal::ALL
            .iter()
            .map(|_| Answer::new(StatusCode::INTERNAL_SERVER_ERROR.as_u16()))
            .collect(),
        held_retry_after: Duration::from_secs(60),
        unavailable_retry_after: Duration::from_secs(1),
        replay_mark: None,
        original_request_id: None,
        request_id: Some(HeaderName::from_static("x-request-id")),
        policy_link: None,
        fields: super::fields::FieldPolicy::default(),
    }
}
