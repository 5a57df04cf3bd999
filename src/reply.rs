//! The answer that is kept and given again.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// What a handler answered: a status, headers in order, a body, and trailers.
///
/// The engine gives none of it a meaning; the status of an HTTP answer is a number like any other.
/// Cloning is cheap: status, headers, body and trailers are shared, never copied.
///
/// ```
/// use onceward::Reply;
///
/// let reply = Reply::new(201, r#"{"id":"pay_1"}"#)
///     .with_header("content-type", "application/json")
///     .with_header("location", "/payments/pay_1");
/// assert_eq!(reply.status(), 201);
/// assert_eq!(reply.header("location"), Some(&b"/payments/pay_1"[..]));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    inner: Arc<Inner>,
}

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    status: u16,
    is_retained: bool,
    headers: Fields,
    body: Bytes,
    trailers: Fields,
    /// The number of the key that the whole reply is encrypted with, in the body's place; only on its way to the disk
    /// and back.
    encrypted_with: Option<u32>,
}

/// Names and values, in order.
type Fields = Vec<(String, Bytes)>;

impl Reply {
    /// A reply without headers.
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self::from_parts(status, true, Vec::new(), body.into(), Vec::new())
    }

    /// The note that the request was carried out and that its answer isn't kept, for an answer that
    /// is over the engine's limit. A retry gets this reply, with the status and an empty body, and
    /// never runs the handler again. Headers may be added, such as a `location` that leads to the result.
    pub fn not_retained(status: u16) -> Self {
        Self::from_parts(status, false, Vec::new(), Bytes::new(), Vec::new())
    }

    pub(crate) fn from_parts(
        status: u16,
        is_retained: bool,
        headers: Fields,
        body: Bytes,
        trailers: Fields,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                status,
                is_retained,
                headers,
                body,
                trailers,
                encrypted_with: None,
            }),
        }
    }

    /// A reply that is encrypted as a whole with the key of this number.
    pub(crate) fn encrypted(key: u32, sealed: Bytes) -> Self {
        let mut reply = Self::new(0, sealed);
        Arc::make_mut(&mut reply.inner).encrypted_with = Some(key);
        reply
    }

    pub(crate) fn encrypted_with(&self) -> Option<u32> {
        self.inner.encrypted_with
    }

    /// Adds a header after those that are there; a repeated name is kept beside the first.
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        let inner = Arc::make_mut(&mut self.inner);
        inner.headers.push((name.into(), value.into()));
        self
    }

    /// Adds a trailer, a field that follows the body; a repeated name is kept beside the first.
    pub fn with_trailer(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        let inner = Arc::make_mut(&mut self.inner);
        inner.trailers.push((name.into(), value.into()));
        self
    }

    /// The status that the reply was made with.
    pub fn status(&self) -> u16 {
        self.inner.status
    }

    /// The headers, in the order in which they were added.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&str, &Bytes)> {
        fields(&self.inner.headers)
    }

    /// The trailers, in the order in which they were added; gRPC's status is one of them.
    pub fn trailers(&self) -> impl ExactSizeIterator<Item = (&str, &Bytes)> {
        fields(&self.inner.trailers)
    }

    /// The value of the first header of this name, ASCII case aside.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers()
            .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_ref())
    }

    /// The body; cloning it copies nothing.
    pub fn body(&self) -> &Bytes {
        &self.inner.body
    }

    /// Whether the answer itself was kept. `false` for [`Reply::not_retained`].
    pub fn is_retained(&self) -> bool {
        self.inner.is_retained
    }

    /// How many bytes of names, values and body the reply holds, trailers included; this is what
    /// [`Builder::max_reply_bytes`](crate::Builder::max_reply_bytes) limits.
    pub fn size_bytes(&self) -> usize {
        let fields = self.headers().chain(self.trailers());
        let field_bytes: usize = fields.map(|(name, value)| name.len() + value.len()).sum();
        field_bytes + self.body().len()
    }
}

fn fields(fields: &Fields) -> impl ExactSizeIterator<Item = (&str, &Bytes)> {
    fields.iter().map(|(name, value)| (name.as_str(), value))
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status())
            .field("headers", &self.headers().len())
            .field("body_bytes", &self.body().len())
            .field("trailers", &self.trailers().len())
            .field("is_retained", &self.is_retained())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_their_order_and_their_repeats() {
        let reply = Reply::new(200, "")
            .with_header("b", "1")
            .with_header("a", "2")
            .with_header("B", "3");
        let names: Vec<_> = reply.headers().map(|(name, _)| name).collect();
        assert_eq!(names, ["b", "a", "B"]);
        assert_eq!(reply.header("B"), Some(&b"1"[..]));
        assert_eq!(reply.size_bytes(), 6);
    }

    #[test]
    fn trailers_stand_apart_from_headers_and_count_in_the_size() {
        let reply = Reply::new(200, "body")
            .with_header("a", "1")
            .with_trailer("grpc-status", "0");
        assert_eq!(reply.header("grpc-status"), None);
        let trailers: Vec<_> = reply.trailers().collect();
        assert_eq!(trailers, [("grpc-status", &Bytes::from("0"))]);
        assert_eq!(reply.size_bytes(), 2 + 4 + 12);
    }

    #[test]
    fn a_header_added_to_a_clone_leaves_the_original_alone() {
        let reply = Reply::new(200, "body");
        let other = reply.clone().with_header("x", "y");
        assert_eq!(reply.headers().len(), 0);
        assert_eq!(other.headers().len(), 1);
    }

    #[test]
    fn debug_shows_no_body_and_no_header() {
        let shown = format!(
            "{:?}",
            Reply::new(200, "canary-body")
                .with_header("canary-name", "canary-value")
                .with_trailer("canary-trailer", "canary-value")
        );
        assert!(!shown.contains("canary"), "{shown}");
    }
}
