//! A layer's settings, each with its default.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http::request::Parts;
use onceward::limits::{
    MAX_FINGERPRINT_PARTS, MAX_LEASE, MAX_PART_NAME_BYTES, MAX_RETENTION, check_duration,
    check_number,
};
use onceward::{Fingerprint, Result, Terms};

/// The parts of the layer's own fingerprint: method, path, query and body.
const OWN_PARTS: usize = 4;
/// What the name of a header's part begins with.
const HEADER_PART: &str = "header ";
const DEFAULT_MAX_BODY_BYTES: usize = 1 << 20;
const DEFAULT_RENEW_FOR: Duration = Duration::from_secs(15 * 60);
const DEFAULT_ANSWER_TIME: Duration = Duration::from_secs(30);
const DEFAULT_MAX_PENDING_BYTES: usize = 64 << 20;
const DEFAULT_SLOT_WAIT: Duration = Duration::from_secs(1);
pub(crate) const DEFAULT_MAX_RUNNING: usize = 1_024;

type TermsRule = dyn Fn(&Parts, Terms) -> Terms + Send + Sync;
type FingerprintRule = dyn Fn(&Parts, &Bytes) -> Result<Fingerprint> + Send + Sync;

/// A layer's settings. Each has a default; out of range, they are refused where they are given to a layer.
///
/// ```
/// use std::time::Duration;
/// use onceward_http::Options;
///
/// let options = Options::new()
///     .lease(Duration::from_secs(30))
///     .max_body_bytes(64 * 1024);
/// ```
#[derive(Clone)]
#[must_use]
pub struct Options {
    pub(crate) max_body_bytes: usize,
    lease: Option<Duration>,
    retention: Option<Duration>,
    terms_for: Option<Arc<TermsRule>>,
    pub(crate) renew_for: Duration,
    pub(crate) answer_time: Duration,
    pub(crate) max_running: Option<usize>,
    pub(crate) slot_wait: Duration,
    pub(crate) max_pending_bytes: usize,
    fingerprint_headers: Vec<HeaderName>,
    fingerprint: Option<Arc<FingerprintRule>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_body_bytes: DEFAULT_MAX_BODY_BYTES,
            lease: None,
            retention: None,
            terms_for: None,
            renew_for: DEFAULT_RENEW_FOR,
            answer_time: DEFAULT_ANSWER_TIME,
            max_running: None,
            slot_wait: DEFAULT_SLOT_WAIT,
            max_pending_bytes: DEFAULT_MAX_PENDING_BYTES,
            fingerprint_headers: Vec::new(),
            fingerprint: None,
        }
    }
}

impl Options {
    /// Every setting at its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// The largest body, in bytes, that a request with a key may have: 1 MiB unless it is set. It is held in
    /// memory while the handler runs. Requests without a key aren't read, and not limited.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.max_body_bytes = bytes;
        self
    }

    /// The lease, for this layer's requests: the engine's unless it is set.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// The retention, for this layer's requests: the engine's unless it is set.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Lease and retention per request, for a layer that stands in front of several routes: a function of the
    /// request's head (see [`fingerprint_with`](Self::fingerprint_with)) and the terms that it would have otherwise. Terms that the engine doesn't allow make the
    /// request `Unavailable`.
    pub fn terms_for(
        mut self,
        rule: impl Fn(&Parts, Terms) -> Terms + Send + Sync + 'static,
    ) -> Self {
        self.terms_for = Some(Arc::new(rule));
        self
    }

    /// How long after its grant the lease of a running handler goes on being renewed: 15 minutes unless it
    /// is set; zero renews nothing. A handler that runs longer than this and the lease may be run a second
    /// time beside the first. So may one that blocks its thread for longer than the lease: renewals run beside
    /// it, between its awaits. A renewal that fails for a passing reason is tried again, after a
    /// twentieth of the lease at first and a quarter at most, and an answer that couldn't be kept
    /// at once is kept in the background as long.
    pub fn renew_for(mut self, limit: Duration) -> Self {
        self.renew_for = limit;
        self
    }

    /// How long an answer may take from its head to its end: 30 s unless it is set. One that takes longer is treated
    /// like one that is too large: it goes on to its client, and a note is kept in its place.
    pub fn max_answer_time(mut self, limit: Duration) -> Self {
        self.answer_time = limit;
        self
    }

    /// How many handlers may run at once: 1,024 unless it is set. Layers that are clones of one another share
    /// the number until one of them sets its own.
    pub fn max_running(mut self, handlers: usize) -> Self {
        self.max_running = Some(handlers);
        self
    }

    /// How long a request waits while as many handlers run as may, before it is refused as `Unavailable`:
    /// 1 s unless it is set. Replays and conflicts don't wait.
    pub fn max_running_wait(mut self, wait: Duration) -> Self {
        self.slot_wait = wait;
        self
    }

    /// How many bytes of replies may wait in memory to be kept in the background, because the store
    /// couldn't take them at once: 64 MiB unless it is set. Of a reply beyond that a note is kept:
    /// a retry learns that the request was carried out.
    pub fn max_pending_bytes(mut self, bytes: usize) -> Self {
        self.max_pending_bytes = bytes;
        self
    }

    /// Makes a header part of the fingerprint: a retry has to send it with the same values. Method, path,
    /// query and body are part of it always.
    ///
    /// Adding a header to a running service makes conflicts of retries whose first request came before.
    pub fn fingerprint_header(mut self, name: HeaderName) -> Self {
        if !self.fingerprint_headers.contains(&name) {
            self.fingerprint_headers.push(name);
        }
        self
    }

    /// Replaces the fingerprint by one's own, of the request's head and its whole body. An error makes the
    /// request `Unavailable`. Cover everything that tells two requests apart: what isn't covered is replayed.
    ///
    /// The head's URI is the one that the client sent; behind axum's `nest` that takes the feature `axum`. In
    /// actix-web the head has no extensions.
    pub fn fingerprint_with(
        mut self,
        rule: impl Fn(&Parts, &Bytes) -> Result<Fingerprint> + Send + Sync + 'static,
    ) -> Self {
        self.fingerprint = Some(Arc::new(rule));
        self
    }

    pub(crate) fn check(self) -> Result<Self> {
        if let Some(lease) = self.lease {
            check_duration("lease", lease, MAX_LEASE)?;
        }
        if let Some(retention) = self.retention {
            check_duration("retention", retention, MAX_RETENTION)?;
        }
        if let Some(handlers) = self.max_running {
            let most = tokio::sync::Semaphore::MAX_PERMITS as u64;
            check_number("max_running", handlers as u64, 1, most)?;
        }
        let headers = self.fingerprint_headers.len() as u64;
        let most = (MAX_FINGERPRINT_PARTS - OWN_PARTS) as u64;
        check_number("the number of fingerprint headers", headers, 0, most)?;
        for name in &self.fingerprint_headers {
            let (bytes, most) = (name.as_str().len(), MAX_PART_NAME_BYTES - HEADER_PART.len());
            check_number(
                "a fingerprint header's length in bytes",
                bytes as u64,
                1,
                most as u64,
            )?;
        }
        Ok(self)
    }

    /// The terms for one request.
    pub(crate) fn terms(&self, head: &Parts, engine: Terms) -> Terms {
        let terms = Terms::new(
            self.lease.unwrap_or(engine.lease),
            self.retention.unwrap_or(engine.retention),
        );
        match &self.terms_for {
            Some(rule) => rule(head, terms),
            None => terms,
        }
    }

    /// What makes a retry the same request.
    pub(crate) fn fingerprint(&self, head: &Parts, body: &Bytes) -> Result<Fingerprint> {
        if let Some(rule) = &self.fingerprint {
            return rule(head, body);
        }
        let mut own = Fingerprint::builder()
            .part("method", head.method.as_str())
            .part("path", head.uri.path())
            .part("body", body);
        if let Some(query) = head.uri.query() {
            own = own.part("query", query);
        }
        let headers = self.fingerprint_headers.iter();
        headers
            .fold(own, |parts, name| {
                let mut framed = Vec::new();
                for value in head.headers.get_all(name) {
                    framed.extend_from_slice(&(value.len() as u64).to_le_bytes());
                    framed.extend_from_slice(value.as_bytes());
                }
                parts.part(format!("{HEADER_PART}{name}"), framed)
            })
            .build()
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("max_body_bytes", &self.max_body_bytes)
            .field("lease", &self.lease)
            .field("retention", &self.retention)
            .field("renew_for", &self.renew_for)
            .field("max_answer_time", &self.answer_time)
            .field("max_running", &self.max_running)
            .field("max_running_wait", &self.slot_wait)
            .field("max_pending_bytes", &self.max_pending_bytes)
            .field("fingerprint_headers", &self.fingerprint_headers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_is_told_by_is_pinned() {
        let request = http::Request::post("https://host/payments?x=1")
            .body(())
            .unwrap();
        let (mut head, ()) = request.into_parts();
        head.headers.insert("x-currency", "EUR".parse().unwrap());
        let body = Bytes::from_static(b"{}");
        let parts = Fingerprint::builder()
            .part("method", "POST")
            .part("path", "/payments")
            .part("query", "x=1")
            .part("body", "{}");
        let plain = Options::new().fingerprint(&head, &body).unwrap();
        assert_eq!(plain, parts.clone().build().unwrap());
        let options = Options::new().fingerprint_header("x-currency".parse().unwrap());
        let parts = parts.part("header x-currency", b"\x03\0\0\0\0\0\0\0EUR");
        let with_header = options.fingerprint(&head, &body).unwrap();
        assert_eq!(with_header, parts.build().unwrap());
    }
}
