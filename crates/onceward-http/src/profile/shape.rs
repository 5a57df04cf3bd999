//! The bodies of refusals.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::occasion::Occasion;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A user's own body: the request's id and the message in, the bytes out.
pub(super) type OwnBody = dyn Fn(&str, &str) -> Bytes + Send + Sync;

#[derive(Clone)]
pub(super) enum Shape {
    Empty,
    Errors {
        kind: Cow<'static, str>,
        code: Cow<'static, str>,
    },
    Error {
        kind: Cow<'static, str>,
        code: Cow<'static, str>,
    },
    Problem {
        type_uri: Cow<'static, str>,
        title: Cow<'static, str>,
    },
    Own {
        content_type: HeaderValue,
        body: Arc<OwnBody>,
    },
}

#[derive(Serialize)]
struct Errors<'a> {
    errors: [ErrorObject<'a>; 1],
    request_id: &'a str,
}

#[derive(Serialize)]
struct Wrapped<'a> {
    error: ErrorObject<'a>,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    code: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    type_uri: &'a str,
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
}

impl Shape {
    /// The content type and the body, or `None` if there is no body.
    pub(super) fn render(
        &self,
        status: StatusCode,
        message: &str,
        occasion: &Occasion,
    ) -> Option<(HeaderValue, Bytes)> {
        let has_no_body = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        match self {
            _ if has_no_body => None,
            Self::Empty => None,
            Self::Errors { kind, code } => {
                let body = Errors {
                    errors: [ErrorObject {
                        kind,
                        code,
                        message,
                    }],
                    request_id: occasion.request_id(),
                };
                Some((JSON, json(&body)))
            }
            Self::Error { kind, code } => {
                let error = ErrorObject {
                    kind,
                    code,
                    message,
                };
                Some((JSON, json(&Wrapped { error })))
            }
            Self::Problem { type_uri, title } => {
                let body = Problem {
                    type_uri,
                    title,
                    status: status.as_u16(),
                    detail: message,
                };
                Some((PROBLEM_JSON, json(&body)))
            }
            Self::Own { content_type, body } => {
                Some((content_type.clone(), body(occasion.request_id(), message)))
            }
        }
    }
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value)
        .expect("strings and numbers can be written as JSON")
        .into()
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::Errors { .. } => "errors",
            Self::Error { .. } => "error",
            Self::Problem { .. } => "problem",
            Self::Own { .. } => "the caller's own",
        })
    }
}
