//! Which answers are kept for retries.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};

/// A handler's answer, as far as it decides whether it is kept.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Answered<'a> {
    /// The HTTP status; 200 for nearly everything that speaks gRPC.
    pub status: StatusCode,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// gRPC's status, from the trailers or, if there is no body, the headers. `None` if the answer isn't
    /// gRPC's.
    pub grpc_status: Option<u32>,
}

impl<'a> Answered<'a> {
    /// An answer that ended with these trailers, or without any.
    pub fn new(status: StatusCode, headers: &'a HeaderMap, trailers: Option<&HeaderMap>) -> Self {
        Self {
            status,
            headers,
            grpc_status: is_grpc(headers).then(|| {
                grpc_status(headers)
                    .or_else(|| trailers.and_then(grpc_status))
                    .unwrap_or(GRPC_UNKNOWN)
            }),
        }
    }

    /// Whether the request was carried out: a 2xx and, for gRPC, the status 0 too.
    pub fn is_success(&self) -> bool {
        self.status.is_success() && matches!(self.grpc_status, None | Some(0))
    }
}

/// gRPC's `UNKNOWN`: what an answer without a status is.
pub(super) const GRPC_UNKNOWN: u32 = 2;

/// Whether the headers are those of a gRPC request or answer. gRPC-Web isn't: its status stands in the body.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(http::header::CONTENT_TYPE);
    value
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn grpc_status(fields: &HeaderMap) -> Option<u32> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Whether an answer's status stands in its trailers, so that its head doesn't tell whether it is kept.
pub(super) fn is_told_at_the_end(headers: &HeaderMap) -> bool {
    is_grpc(headers) && grpc_status(headers).is_none()
}

/// A user's own rule for what is kept.
pub(super) type KeepRule = dyn Fn(&Answered<'_>) -> bool + Send + Sync;

#[derive(Clone)]
pub(super) enum Keep {
    Every,
    Success,
    Rule(Arc<KeepRule>),
}

impl Keep {
    pub(super) fn keeps(&self, answered: &Answered<'_>) -> bool {
        match self {
            Self::Every => true,
            Self::Success => answered.is_success(),
            Self::Rule(rule) => rule(answered),
        }
    }
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Every => "every answer",
            Self::Success => "successes",
            Self::Rule(_) => "a rule",
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn grpc_succeeds_by_its_own_status_wherever_it_stands() {
        let plain = headers(&[("content-type", "application/grpc+proto")]);
        let only_trailers = headers(&[("content-type", "application/grpc"), ("grpc-status", "5")]);
        let (done, failed) = (
            headers(&[("grpc-status", "0")]),
            headers(&[("grpc-status", "14")]),
        );
        for (head, trailers, status) in [
            (&plain, Some(&done), 0),
            (&plain, Some(&failed), 14),
            (&plain, None, GRPC_UNKNOWN),
            (&only_trailers, None, 5),
        ] {
            let answered = Answered::new(StatusCode::OK, head, trailers);
            assert_eq!(answered.grpc_status, Some(status));
            assert_eq!(answered.is_success(), status == 0);
            assert_eq!(Keep::Success.keeps(&answered), status == 0);
            assert!(Keep::Every.keeps(&answered));
        }
    }

    #[test]
    fn other_answers_succeed_by_their_http_status() {
        let head = headers(&[("grpc-status", "0")]);
        let web = headers(&[("content-type", "application/grpc-web+proto")]);
        assert_eq!(Answered::new(StatusCode::OK, &web, None).grpc_status, None);
        for (status, is_success) in [
            (200, true),
            (204, true),
            (302, false),
            (404, false),
            (500, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let answered = Answered::new(status, &head, None);
            assert_eq!(answered.grpc_status, None);
            assert_eq!(answered.is_success(), is_success);
        }
    }
}
