//! What a client hears when its request isn't carried out.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use onceward::{Conflict, ErrorKind, InFlight};

use super::keep::GRPC_UNKNOWN;
use super::key_syntax::KeyProblem;
use super::occasion::Occasion;
use super::replay::Content;
use super::shape::Shape;

/// The reasons for which a request isn't carried out; a [`Profile`](super::Profile) has an [`Answer`] for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The operation requires a key, and there is none.
    KeyMissing,
    /// The key can't be read, or isn't one that the profile allows.
    KeyMalformed,
    /// The request doesn't say whose key it is.
    ScopeUnknown,
    /// The request's body is larger than the layer reads.
    BodyTooLarge,
    /// The request's body broke off.
    BodyUnreadable,
    /// The key was used with another request.
    Conflict,
    /// The first request is still running.
    InFlight,
    /// The engine can't answer, or too many requests are running.
    Unavailable,
    /// The request was carried out before, and its answer was too large or too slow to keep.
    NotRetained,
    /// The server stopped while the handler ran.
    Interrupted,
    /// The scope has as many live keys as one may.
    ScopeFull,
}

impl Refusal {
    /// Each of them once, in the order of their numbers.
    pub(super) const ALL: [Self; 11] = [
        Self::KeyMissing,
        Self::KeyMalformed,
        Self::ScopeUnknown,
        Self::BodyTooLarge,
        Self::BodyUnreadable,
        Self::Conflict,
        Self::InFlight,
        Self::Unavailable,
        Self::NotRetained,
        Self::Interrupted,
        Self::ScopeFull,
    ];
}

/// Why one request wasn't carried out, with what there is to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// [`Refusal::KeyMissing`].
    KeyMissing,
    /// [`Refusal::KeyMalformed`], and how.
    KeyMalformed(KeyProblem),
    /// [`Refusal::ScopeUnknown`].
    ScopeUnknown,
    /// [`Refusal::BodyTooLarge`].
    #[non_exhaustive]
    BodyTooLarge {
        /// How many bytes a body may have.
        max_bytes: usize,
    },
    /// [`Refusal::BodyUnreadable`].
    BodyUnreadable,
    /// [`Refusal::Conflict`], and in which part of the request.
    Conflict(Conflict),
    /// [`Refusal::InFlight`], and since when.
    InFlight(InFlight),
    /// [`Refusal::Unavailable`], and the engine's reason; [`Refusal::ScopeFull`] if that is
    /// [`ErrorKind::ScopeFull`].
    Unavailable(ErrorKind),
    /// [`Refusal::NotRetained`].
    #[non_exhaustive]
    NotRetained {
        /// The first answer's status.
        status: u16,
    },
    /// [`Refusal::Interrupted`].
    Interrupted,
}

impl Reason {
    /// [`Refusal::BodyTooLarge`], for a server that reads at most so many bytes.
    pub fn body_too_large(max_bytes: usize) -> Self {
        Self::BodyTooLarge { max_bytes }
    }

    /// Which of the profile's answers it gets.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::KeyMissing => Refusal::KeyMissing,
            Self::KeyMalformed(_) => Refusal::KeyMalformed,
            Self::ScopeUnknown => Refusal::ScopeUnknown,
            Self::BodyTooLarge { .. } => Refusal::BodyTooLarge,
            Self::BodyUnreadable => Refusal::BodyUnreadable,
            Self::Conflict(_) => Refusal::Conflict,
            Self::InFlight(_) => Refusal::InFlight,
            Self::Unavailable(ErrorKind::ScopeFull) => Refusal::ScopeFull,
            Self::Unavailable(_) => Refusal::Unavailable,
            Self::NotRetained { .. } => Refusal::NotRetained,
            Self::Interrupted => Refusal::Interrupted,
        }
    }

    /// What stands for `{detail}` in an answer's message; `wait` is what a retry should wait.
    fn detail(&self, wait: Duration) -> Cow<'static, str> {
        match self {
            Self::KeyMalformed(problem) => problem.to_string().into(),
            Self::BodyTooLarge { max_bytes } => {
                format!("at most {max_bytes} bytes are allowed").into()
            }
            Self::Conflict(conflict) => match conflict.part() {
                Some(part) => format!("the requests differ in this part: {part}").into(),
                None => "the requests differ".into(),
            },
            Self::InFlight(_) => format!("retry after {} s", wait.as_secs()).into(),
            Self::NotRetained { status } => format!("its status was {status}").into(),
            _ => Cow::Borrowed(""),
        }
    }
}

/// An answer of a profile's, as data: a status, the shape of the body, and headers.
///
/// The message may hold `{detail}`, which stands for what there is to say about the one request: what is
/// wrong with its key, or which part of it differs. No key and no body is ever part of it.
#[derive(Clone, Debug)]
pub struct Answer {
    status: Option<u16>,
    shape: Shape,
    message: Cow<'static, str>,
    headers: HeaderMap,
    has_retry_after: Option<bool>,
    grpc_status: Option<u32>,
}

impl Answer {
    /// An answer with this status and no body.
    ///
    /// A status that isn't between 200 and 599 is refused by [`ProfileBuilder::build`](super::ProfileBuilder::build).
    pub fn new(status: u16) -> Self {
        Self::with_status(Some(status))
    }

    /// An answer with the status that the first answer had; for [`Refusal::NotRetained`].
    pub fn with_first_status() -> Self {
        Self::with_status(None)
    }

    fn with_status(status: Option<u16>) -> Self {
        Self {
            status,
            shape: Shape::Empty,
            message: Cow::Borrowed(""),
            headers: HeaderMap::new(),
            has_retry_after: None,
            grpc_status: None,
        }
    }

    /// A body as Deck has it: `{"errors":[{"type":…,"code":…,"message":…}],"request_id":…}`.
    pub fn errors(
        self,
        kind: impl Into<Cow<'static, str>>,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.shaped(
            Shape::Errors {
                kind: kind.into(),
                code: code.into(),
            },
            message.into(),
        )
    }

    /// A body as Stripe has it: `{"error":{"type":…,"code":…,"message":…}}`; an empty code is left out.
    pub fn error(
        self,
        kind: impl Into<Cow<'static, str>>,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.shaped(
            Shape::Error {
                kind: kind.into(),
                code: code.into(),
            },
            message.into(),
        )
    }

    /// A body of `application/problem+json` (RFC 9457): `{"type":…,"title":…,"status":…,"detail":…}`.
    pub fn problem(
        self,
        type_uri: impl Into<Cow<'static, str>>,
        title: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.shaped(
            Shape::Problem {
                type_uri: type_uri.into(),
                title: title.into(),
            },
            detail.into(),
        )
    }

    /// A body of the caller's own making: `body` is given the request's id and the message with its
    /// detail filled in.
    pub fn body_with(
        self,
        content_type: HeaderValue,
        message: impl Into<Cow<'static, str>>,
        body: impl Fn(&str, &str) -> Bytes + Send + Sync + 'static,
    ) -> Self {
        let body = Arc::new(body);
        self.shaped(Shape::Own { content_type, body }, message.into())
    }

    /// Adds a header.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Whether to send `retry-after` in whole seconds, where there is a time to tell. Unless it is set, as the answer
    /// that this one takes the place of.
    pub fn retry_after(mut self, is_sent: bool) -> Self {
        self.has_retry_after = Some(is_sent);
        self
    }

    /// The status that a request over gRPC gets instead. Unless it is set, as the answer that this one takes the
    /// place of.
    pub fn grpc_status(mut self, code: u32) -> Self {
        self.grpc_status = Some(code);
        self
    }

    /// What isn't set here is as in `previous`.
    pub(super) fn in_place_of(mut self, previous: &Self) -> Self {
        self.has_retry_after = self.has_retry_after.or(previous.has_retry_after);
        self.grpc_status = self.grpc_status.or(previous.grpc_status);
        self
    }

    fn shaped(mut self, shape: Shape, message: Cow<'static, str>) -> Self {
        self.shape = shape;
        self.message = message;
        self
    }

    /// The status, if it is one that an answer can't have.
    pub(super) fn invalid_status(&self) -> Option<u16> {
        self.status.filter(|status| !(200..600).contains(status))
    }

    /// The response to one request.
    pub(super) fn render(
        &self,
        occasion: &Occasion,
        reason: &Reason,
        wait: Option<Duration>,
    ) -> Response<Content> {
        let mut headers = self.headers.clone();
        if let Some(wait) = wait.filter(|_| self.has_retry_after == Some(true)) {
            headers.insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
        }
        let detail = reason.detail(wait.unwrap_or_default());
        let message = self.message.replace("{detail}", &detail);
        let (status, body) = if occasion.is_grpc {
            let code = self.grpc_status.unwrap_or(GRPC_UNKNOWN);
            insert_grpc_status(&mut headers, code, &message);
            (StatusCode::OK, Bytes::new())
        } else {
            let status = self.status_for(reason);
            let body = self.shape.render(status, &message, occasion);
            if let Some((content_type, _)) = &body {
                headers.insert(header::CONTENT_TYPE, content_type.clone());
            }
            (status, body.map(|(_, bytes)| bytes).unwrap_or_default())
        };
        let mut response = Response::new(Content::new(body, None));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    fn status_for(&self, reason: &Reason) -> StatusCode {
        let status = match (self.status, reason) {
            (Some(status), _) => status,
            (None, Reason::NotRetained { status }) => *status,
            (None, _) => 500,
        };
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// An answer that is headers only, as gRPC has it for calls that didn't get anywhere.
fn insert_grpc_status(headers: &mut HeaderMap, code: u32, message: &str) {
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert("grpc-status", code.into());
    if let Ok(message) = HeaderValue::try_from(PercentEncoded(message).to_string()) {
        headers.insert("grpc-message", message);
    }
}

/// gRPC's encoding of messages: visible ASCII but for the percent sign stays.
struct PercentEncoded<'a>(&'a str);

impl fmt::Display for PercentEncoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b' '..=b'~' if byte != b'%' => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}
