//! A handler's answer into a reply, and a reply into an answer.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, response};
use onceward::{ErrorKind, Reply};

use super::answer::Reason;
use super::fields::is_of_the_body;
use super::occasion::Occasion;
use super::rules::Profile;

/// A whole body, and the trailers after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Content {
    /// The body.
    pub body: Bytes,
    /// The trailers, if there were any.
    pub trailers: Option<HeaderMap>,
}

impl Content {
    /// A body and its trailers.
    pub fn new(body: impl Into<Bytes>, trailers: Option<HeaderMap>) -> Self {
        Self {
            body: body.into(),
            trailers,
        }
    }
}

impl Profile {
    /// The reply that is kept of an answer: its status, body and trailers, and the headers that a retry
    /// may get, with the request's id among them.
    pub fn reply(&self, occasion: &Occasion, head: &response::Parts, content: &Content) -> Reply {
        let reply = Reply::new(head.status.as_u16(), content.body.clone());
        let reply = self.with_headers(reply, occasion, &head.headers, |_| true);
        let trailers = content
            .trailers
            .iter()
            .flat_map(|trailers| self.rules.fields.kept(trailers));
        trailers.fold(reply, |reply, (name, value)| {
            reply.with_trailer(name.as_str(), Bytes::copy_from_slice(value.as_bytes()))
        })
    }

    /// The note that is kept of an answer that is too large: its status, and the headers that don't
    /// describe the body. See [`Reply::not_retained`].
    pub fn note(&self, occasion: &Occasion, head: &response::Parts) -> Reply {
        let note = Reply::not_retained(head.status.as_u16());
        self.with_headers(note, occasion, &head.headers, |name| !is_of_the_body(name))
    }

    fn with_headers(
        &self,
        reply: Reply,
        occasion: &Occasion,
        headers: &HeaderMap,
        is_wanted: impl Fn(&HeaderName) -> bool,
    ) -> Reply {
        let id_header = self.rules.request_id.as_ref();
        let fields = self.rules.fields.kept(headers);
        let kept = fields.filter(|(name, _)| Some(*name) != id_header && is_wanted(name));
        let reply = kept.fold(reply, |reply, (name, value)| {
            reply.with_header(name.as_str(), Bytes::copy_from_slice(value.as_bytes()))
        });
        let Some(name) = id_header else {
            return reply;
        };
        // Whatever is dropped: a later request may have to name this one.
        let id = headers.get(name).unwrap_or(&occasion.request_id);
        reply.with_header(name.as_str(), Bytes::copy_from_slice(id.as_bytes()))
    }

    /// The answer to a retry: the reply's status, headers, body and trailers, marked as the profile marks
    /// replays, with the retry's own id. For a reply that wasn't retained, the profile's answer for that.
    pub fn replay(&self, occasion: &Occasion, reply: &Reply) -> Response<Content> {
        let Ok(status) = StatusCode::from_u16(reply.status()) else {
            // A reply that isn't HTTP's, from other code on the same engine and key.
            return self.refuse(occasion, &Reason::Unavailable(ErrorKind::Encoding));
        };
        let mut response = if reply.is_retained() {
            let trailers = reply.trailers().len() > 0;
            let trailers = trailers.then(|| header_map(reply.trailers()));
            Response::new(Content::new(reply.body().clone(), trailers))
        } else {
            let status = reply.status();
            self.refuse(occasion, &Reason::NotRetained { status })
        };
        if reply.is_retained() {
            *response.status_mut() = status;
        }
        self.fill_in(response.headers_mut(), occasion, reply);
        response
    }

    /// Adds a reply's headers, the marks of a replay, and the current request's id.
    fn fill_in(&self, headers: &mut HeaderMap, occasion: &Occasion, reply: &Reply) {
        let rules = &*self.rules;
        let mut first_id = None;
        headers.reserve(reply.headers().len() + 2);
        for (name, value) in reply.headers() {
            let Ok(value) = HeaderValue::from_maybe_shared(value.clone()) else {
                continue;
            };
            if rules.request_id.as_ref().is_some_and(|id| id == name) {
                first_id.get_or_insert(value);
            } else if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                headers.append(name, value);
            }
        }
        if let Some((name, value)) = &rules.replay_mark {
            headers.insert(name, value.clone());
        }
        if let (Some(name), Some(first_id)) = (&rules.original_request_id, first_id) {
            headers.insert(name, first_id);
        }
        self.identify(headers, occasion);
    }

    /// Adds the request's id to an answer's headers, unless there is one or the profile has no header for it.
    ///
    /// Refusals and replays have it; a first answer needs it before it is sent.
    pub fn identify(&self, headers: &mut HeaderMap, occasion: &Occasion) {
        if let Some(name) = &self.rules.request_id
            && !headers.contains_key(name)
        {
            headers.insert(name, occasion.request_id.clone());
        }
    }
}

fn header_map<'r>(fields: impl Iterator<Item = (&'r str, &'r Bytes)>) -> HeaderMap {
    fields
        .filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_maybe_shared(value.clone()).ok()?))
        })
        .collect()
}
