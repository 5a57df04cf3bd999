//! The service's future.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use crate::layer::LayerBody;

type Exchanged<R, E> = Pin<Box<dyn Future<Output = Result<Response<LayerBody<R>>, E>> + Send>>;

pin_project! {
    /// The answer to one request; the future of [`Idempotency`](super::Idempotency).
    ///
    /// Dropping it doesn't cancel a handler that runs for a key.
    pub struct ResponseFuture<F, R: Body, E> {
        #[pin]
        state: State<F, R, E>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, R: Body, E> {
        Passed {
            #[pin]
            future: F,
        },
        Ready {
            response: Option<Response<LayerBody<R>>>,
        },
        Exchanged {
            future: Exchanged<R, E>,
        },
    }
}

impl<F, R: Body, E> ResponseFuture<F, R, E> {
    pub(super) fn passed(future: F) -> Self {
        let state = State::Passed { future };
        Self { state }
    }

    pub(super) fn ready(response: Response<LayerBody<R>>) -> Self {
        let response = Some(response);
        let state = State::Ready { response };
        Self { state }
    }

    pub(super) fn exchanged(
        future: impl Future<Output = Result<Response<LayerBody<R>>, E>> + Send + 'static,
    ) -> Self {
        let future = Box::pin(future);
        let state = State::Exchanged { future };
        Self { state }
    }
}

impl<F, R, E> Future for ResponseFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<LayerBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Passed { future } => {
                let response = ready!(future.poll(context));
                Poll::Ready(response.map(|response| response.map(LayerBody::passed)))
            }
            StateProjection::Ready { response } => Poll::Ready(Ok(response
                .take()
                .expect("a future is polled until it is ready"))),
            StateProjection::Exchanged { future } => future.as_mut().poll(context),
        }
    }
}

impl<F, R: Body, E> fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
