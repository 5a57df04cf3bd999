//! actix-web's bodies as the core's, and back.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, BodyStream, BoxBody, MessageBody};
use actix_web::dev::Payload;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::layer::LayerBody;

pin_project! {
    /// actix-web's body, as the core reads it.
    pub(super) struct Messages<B> {
        #[pin]
        body: B,
    }
}

impl<B: MessageBody> Messages<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body }
    }
}

impl Messages<BodyStream<Payload>> {
    pub(super) fn of_payload(payload: Payload) -> Self {
        Self::new(BodyStream::new(payload))
    }
}

impl<B: MessageBody> Body for Messages<B> {
    type Data = Bytes;
    type Error = Box<dyn Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Box<dyn Error>>>> {
        let next = ready!(self.project().body.poll_next(context));
        Poll::Ready(next.map(|chunk| chunk.map(Frame::data).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.body.size(), BodySize::None | BodySize::Sized(0))
    }

    fn size_hint(&self) -> SizeHint {
        match self.body.size() {
            BodySize::None => SizeHint::with_exact(0),
            BodySize::Sized(bytes) => SizeHint::with_exact(bytes),
            BodySize::Stream => SizeHint::default(),
        }
    }
}

pin_project! {
    /// The core's body, as actix-web sends it. actix-web has no trailers.
    pub(super) struct LayerMessages {
        #[pin]
        body: LayerBody<Messages<BoxBody>>,
    }
}

impl LayerMessages {
    pub(super) fn new(body: LayerBody<Messages<BoxBody>>) -> Self {
        Self { body }
    }
}

impl MessageBody for LayerMessages {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        match self.body.size_hint().exact() {
            Some(bytes) => BodySize::Sized(bytes),
            None => BodySize::Stream,
        }
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Box<dyn Error>>>> {
        loop {
            match ready!(self.as_mut().project().body.poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
            }
        }
    }
}
