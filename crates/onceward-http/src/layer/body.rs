//! The bodies that a layer hands on.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::profile::Content;

pin_project! {
    /// A body that a layer has passed through, kept, or read in part. Its data are [`Bytes`].
    pub struct LayerBody<B: Body> {
        #[pin]
        source: Source<B>,
    }
}

pin_project! {
    #[project = SourceProjection]
    enum Source<B: Body> {
        Passed {
            #[pin]
            body: B,
        },
        Kept {
            bytes: Bytes,
            trailers: Option<HeaderMap>,
        },
        /// What was read, and what follows.
        Spliced {
            bytes: Bytes,
            rest: Pin<Box<B>>,
        },
        /// What was read before the body broke off.
        Broken {
            bytes: Bytes,
            error: Option<B::Error>,
        },
    }
}

impl<B: Body> LayerBody<B> {
    pub(crate) fn passed(body: B) -> Self {
        let source = Source::Passed { body };
        Self { source }
    }

    pub(crate) fn kept(content: Content) -> Self {
        let (bytes, trailers) = (content.body, content.trailers);
        let source = Source::Kept { bytes, trailers };
        Self { source }
    }

    pub(crate) fn spliced(bytes: Bytes, rest: Pin<Box<B>>) -> Self {
        let source = Source::Spliced { bytes, rest };
        Self { source }
    }

    pub(crate) fn broken(bytes: Bytes, error: B::Error) -> Self {
        let error = Some(error);
        let source = Source::Broken { bytes, error };
        Self { source }
    }
}

/// The bytes as a frame, if there are any left.
fn next_frame(bytes: &mut Bytes) -> Option<Frame<Bytes>> {
    (!bytes.is_empty()).then(|| Frame::data(std::mem::take(bytes)))
}

impl<B: Body> Body for LayerBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let next = match self.project().source.project() {
            SourceProjection::Kept { bytes, trailers } => {
                let frame = next_frame(bytes);
                return Poll::Ready(
                    frame
                        .or_else(|| trailers.take().map(Frame::trailers))
                        .map(Ok),
                );
            }
            SourceProjection::Broken { bytes, error } => {
                let frame = next_frame(bytes).map(Ok);
                return Poll::Ready(frame.or_else(|| error.take().map(Err)));
            }
            SourceProjection::Spliced { bytes, rest } => match next_frame(bytes) {
                Some(frame) => return Poll::Ready(Some(Ok(frame))),
                None => rest.as_mut().poll_frame(context),
            },
            SourceProjection::Passed { body } => body.poll_frame(context),
        };
        let frame = ready!(next);
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
        }))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Passed { body } => body.is_end_stream(),
            Source::Kept { bytes, trailers } => bytes.is_empty() && trailers.is_none(),
            Source::Spliced { bytes, rest } => bytes.is_empty() && rest.is_end_stream(),
            Source::Broken { bytes, error } => bytes.is_empty() && error.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Passed { body } => body.size_hint(),
            Source::Kept {
                bytes,
                trailers: None,
            } => SizeHint::with_exact(bytes.len() as u64),
            // An exact size would make an HTTP/1 server leave the trailers out.
            Source::Kept { bytes, .. } | Source::Broken { bytes, .. } => {
                let mut hint = SizeHint::new();
                hint.set_lower(bytes.len() as u64);
                hint
            }
            Source::Spliced { bytes, rest } => {
                let (read, rest) = (bytes.len() as u64, rest.size_hint());
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower() + read);
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper + read);
                }
                hint
            }
        }
    }
}

impl<B: Body> fmt::Debug for LayerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.source {
            Source::Passed { .. } => "LayerBody::Passed",
            Source::Kept { .. } => "LayerBody::Kept",
            Source::Spliced { .. } => "LayerBody::Spliced",
            Source::Broken { .. } => "LayerBody::Broken",
        })
    }
}
