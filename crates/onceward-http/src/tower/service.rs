//! The service: one request's way through the layer.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Request, Response, Uri};
use http_body::Body;
use tokio::task::JoinHandle;
use tower_service::Service;

use super::future::ResponseFuture;
use super::layer::ScopeRule;
use super::uri::{cut_again, restore_sent_uri};
use crate::layer::exchange::{Entry, Exchange, Way};
use crate::layer::execution::{Execution, joined};
use crate::layer::{Attempt, LayerBody};
use crate::profile::{Content, Reason};
use crate::spans::follow;

/// A service whose answers are given again to retries; from [`IdempotencyLayer`](super::IdempotencyLayer).
///
/// The inner service takes requests whose body is a [`LayerBody`]: the request's own if the request has no
/// key, its bytes if it has one. axum's routes and tonic's take any body; for a service of your own, name that type.
#[derive(Clone)]
pub struct Idempotency<S> {
    inner: S,
    exchange: Exchange,
    scope: Arc<ScopeRule>,
}

impl<S> Idempotency<S> {
    pub(super) fn new(inner: S, exchange: Exchange, scope: Arc<ScopeRule>) -> Self {
        Self {
            inner,
            exchange,
            scope,
        }
    }
}

impl<S, Q, R> Service<Request<Q>> for Idempotency<S>
where
    S: Service<Request<LayerBody<Q>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Q: Body + Send + 'static,
    Q::Error: Send,
    R: Body + Send + 'static,
    R::Error: Send,
{
    type Response = Response<LayerBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let routed = restore_sent_uri(&mut head);
        let way = if head.extensions.get::<Attempt>().is_some() {
            // Another layer further out answers for this request.
            Way::Pass
        } else {
            let scope = || (self.scope)(&head);
            self.exchange
                .way(&head.method, head.uri.path(), &head.headers, scope)
        };
        match way {
            Way::Pass => {
                cut_again(&mut head, routed);
                let request = Request::from_parts(head, LayerBody::passed(body));
                ResponseFuture::passed(self.inner.call(request))
            }
            Way::Back(response) => ResponseFuture::ready(response.map(LayerBody::kept)),
            Way::Engine(entry) => {
                // The clone isn't ready; the service that is goes with the request.
                let clone = self.inner.clone();
                let inner = std::mem::replace(&mut self.inner, clone);
                let exchange = self.exchange.clone();
                let asked = Asked {
                    entry,
                    head,
                    routed,
                };
                ResponseFuture::exchanged(exchanged(inner, exchange, asked, body))
            }
        }
    }
}

/// A request with a sound key, and the URI that its handler is to see, if that is another one.
struct Asked {
    entry: Entry,
    head: Parts,
    routed: Option<Uri>,
}

/// Reads the request, asks the engine, and runs the handler in a task of its own.
async fn exchanged<S, Q, R>(
    inner: S,
    exchange: Exchange,
    asked: Asked,
    body: Q,
) -> Result<Response<LayerBody<R>>, S::Error>
where
    S: Service<Request<LayerBody<Q>>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    Q: Body + Send + 'static,
    Q::Error: Send,
    R: Body + Send + 'static,
    R::Error: Send,
{
    let Asked {
        entry,
        mut head,
        routed,
    } = asked;
    let back = |response: Response<Content>| Ok(response.map(LayerBody::kept));
    let content = match exchange.read(body, &entry.occasion).await {
        Ok(content) => content,
        Err(response) => return back(response),
    };
    let begin = exchange.begin(entry, &head, &content.body);
    let execution = match begin.await {
        Ok(execution) => execution,
        Err(response) => return back(response),
    };
    let occasion = execution.occasion().clone();
    // No await from the grant to here: dropped in between, the future would abandon the key.
    cut_again(&mut head, routed);
    match joined(detached(inner, execution, head, content)).await {
        Some(result) => result,
        None => back(exchange.refusal(&occasion, Reason::Interrupted)),
    }
}

/// Runs the handler in a task of its own.
fn detached<S, Q, R>(
    mut inner: S,
    execution: Execution,
    mut head: Parts,
    content: Content,
) -> JoinHandle<Result<Response<LayerBody<R>>, S::Error>>
where
    S: Service<Request<LayerBody<Q>>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    Q: Body + Send + 'static,
    Q::Error: Send,
    R: Body + Send + 'static,
    R::Error: Send,
{
    head.extensions.insert(execution.attempt());
    let request = Request::from_parts(head, LayerBody::kept(content));
    tokio::spawn(follow(
        execution.run(async move { inner.call(request).await }),
    ))
}

impl<S: fmt::Debug> fmt::Debug for Idempotency<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency")
            .field("inner", &self.inner)
            .field("exchange", &self.exchange)
            .finish_non_exhaustive()
    }
}
