//! The service: one request's way through the middleware.

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse, forward_ready};
use actix_web::error::InternalError;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, rt};
use http::request::Parts;
use http::{HeaderMap, Method, Response};
use onceward::ErrorKind;

use super::body::Messages;
use super::convert::{content_response, layer_response, plain_response, request_head};
use super::transform::ScopeRule;
use crate::layer::Attempt;
use crate::layer::exchange::{Entry, Exchange, Way};
use crate::layer::execution::joined;
use crate::profile::{Admission, Reason};
use crate::spans::follow;

/// A service whose answers are given again to retries; from
/// [`IdempotencyMiddleware`](super::IdempotencyMiddleware).
pub struct Idempotency<S> {
    inner: Rc<S>,
    exchange: Exchange,
    scope: Arc<ScopeRule>,
}

impl<S> Idempotency<S> {
    pub(super) fn new(inner: S, exchange: Exchange, scope: Arc<ScopeRule>) -> Self {
        Self {
            inner: Rc::new(inner),
            exchange,
            scope,
        }
    }
}

type Answer<B> = Result<ServiceResponse<EitherBody<B>>, Error>;

impl<S, B> Service<ServiceRequest> for Idempotency<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Answer<B>>>>;

    forward_ready!(inner);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        if passes(&self.exchange, &request) {
            let answer = self.inner.call(request);
            return Box::pin(async move { Ok(answer.await?.map_into_left_body()) });
        }
        let (head, way) = match request_head(&request) {
            Some(head) => {
                let scope = || (self.scope)(&request);
                let way = self
                    .exchange
                    .way(&head.method, head.uri.path(), &head.headers, scope);
                (head, way)
            }
            None => unspeakable(&self.exchange),
        };
        match way {
            Way::Pass => {
                let answer = self.inner.call(request);
                Box::pin(async move { Ok(answer.await?.map_into_left_body()) })
            }
            Way::Back(response) => {
                let response = request.into_response(content_response(response));
                Box::pin(async move { Ok(response.map_into_right_body()) })
            }
            Way::Engine(entry) => {
                let (inner, exchange) = (Rc::clone(&self.inner), self.exchange.clone());
                Box::pin(async move { exchanged(inner, exchange, entry, head, request).await })
            }
        }
    }
}

/// Whether a request goes to the handler as it is, told without turning its head into one of `http` 1.
fn passes(exchange: &Exchange, request: &ServiceRequest) -> bool {
    if request.extensions().get::<Attempt>().is_some() {
        // Another middleware further out answers for this request.
        return true;
    }
    let profile = &exchange.shared.profile;
    let Ok(method) = Method::from_bytes(request.method().as_str().as_bytes()) else {
        return true;
    };
    let has_key = request.headers().contains_key(profile.header().as_str());
    let nothing = HeaderMap::new();
    let without_key = profile.admit(&method, request.path(), &nothing);
    !profile.covers(&method) || (!has_key && without_key == Admission::Pass)
}

/// What becomes of a head that the other version of `http` refuses, should there be one: nothing is run.
fn unspeakable(exchange: &Exchange) -> (Parts, Way) {
    let head = http::Request::new(()).into_parts().0;
    let occasion = exchange.shared.profile.occasion(&head.headers);
    let reason = Reason::Unavailable(ErrorKind::Encoding);
    (head, Way::Back(exchange.refusal(&occasion, reason)))
}

/// Reads the request, asks the engine, and runs the handler in a task of its own.
async fn exchanged<S, B>(
    inner: Rc<S>,
    exchange: Exchange,
    entry: Entry,
    head: Parts,
    mut request: ServiceRequest,
) -> Answer<B>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let body = Messages::of_payload(request.take_payload());
    let content = match exchange.read(body, &entry.occasion).await {
        Ok(content) => content,
        Err(response) => {
            let response = request.into_response(content_response(response));
            return Ok(response.map_into_right_body());
        }
    };
    let begin = exchange.begin(entry, &head, &content.body);
    let execution = match begin.await {
        Ok(execution) => execution,
        Err(response) => {
            let response = request.into_response(content_response(response));
            return Ok(response.map_into_right_body());
        }
    };
    let occasion = execution.occasion().clone();
    // No await from the grant to here: dropped in between, the future would abandon the key.
    request.extensions_mut().insert(execution.attempt());
    request.set_payload(Payload::from(content.body));
    // The core settles what the client will see; what actix-web needs beside it waits here.
    let aside: Rc<Cell<Option<Aside>>> = Rc::default();
    let handler = answered(inner, request, Rc::clone(&aside));
    let Some(Ok(response)) = joined(rt::spawn(follow(execution.run(handler)))).await else {
        let response = content_response(exchange.refusal(&occasion, Reason::Interrupted));
        return Err(InternalError::from_response("the handler was cancelled", response).into());
    };
    let aside = aside.take().expect("the handler has run");
    let response = layer_response(aside.bare, response);
    match aside.origin {
        Ok(request) => Ok(ServiceResponse::new(request, response).map_into_right_body()),
        // Not the error itself: it need not give the same response a second time.
        Err(error) => Err(InternalError::from_response(error, response).into()),
    }
}

/// Runs the handler; gives its answer in the words of `http` 1, and lays the rest aside.
async fn answered<S, B>(
    inner: Rc<S>,
    request: ServiceRequest,
    aside: Rc<Cell<Option<Aside>>>,
) -> Result<Response<Messages<BoxBody>>, Infallible>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody + 'static,
{
    let (origin, response) = match inner.call(request).await {
        Ok(answer) => {
            let (request, response) = answer.into_parts();
            (Ok(request), response.map_into_boxed_body())
        }
        Err(error) => {
            let response = error.error_response();
            (Err(error), response)
        }
    };
    let (bare, body) = response.into_parts();
    let plain = plain_response(&bare, body);
    aside.set(Some(Aside { origin, bare }));
    Ok(plain)
}

/// What of a handler's answer doesn't go through the core.
struct Aside {
    origin: Result<HttpRequest, Error>,
    bare: HttpResponse<()>,
}

impl<S: fmt::Debug> fmt::Debug for Idempotency<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency")
            .field("inner", &self.inner)
            .field("exchange", &self.exchange)
            .finish_non_exhaustive()
    }
}
