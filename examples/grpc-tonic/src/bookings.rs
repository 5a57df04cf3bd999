//! A service that books seats, as `tonic-prost-build` would write it from this file:
//!
//! ```proto
//! syntax = "proto3";
//! package demo;
//! message Seat { string name = 1; }
//! message Booking { string id = 1; string seat = 2; uint32 attempt = 3; }
//! service Bookings { rpc Book(Seat) returns (Booking); }
//! ```

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use onceward_http::Attempt;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, StdError, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Seat {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Booking {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) seat: String,
    #[prost(uint32, tag = "3")]
    pub(crate) attempt: u32,
}

/// The service. It counts the calls that reach it; the seat `taken` can't be booked.
#[derive(Clone, Default)]
pub(crate) struct Bookings {
    pub(crate) calls: Arc<AtomicU64>,
}

impl Bookings {
    fn book(&self, request: Request<Seat>) -> Result<Response<Booking>, Status> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let attempt = request
            .extensions()
            .get::<Attempt>()
            .map_or(0, Attempt::number);
        let seat = request.into_inner().name;
        if seat == "taken" {
            return Err(Status::failed_precondition(format!(
                "call {number}: the seat is taken"
            )));
        }
        Ok(Response::new(Booking {
            id: format!("booking_{number}"),
            seat,
            attempt,
        }))
    }
}

type BoxFuture<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl UnaryService<Seat> for Bookings {
    type Response = Booking;
    type Future = BoxFuture<Response<Booking>, Status>;

    fn call(&mut self, request: Request<Seat>) -> Self::Future {
        Box::pin(std::future::ready(self.book(request)))
    }
}

impl<B> tower::Service<http::Request<B>> for Bookings
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            Ok(Grpc::new(ProstCodec::default())
                .unary(service, request)
                .await)
        })
    }
}

impl NamedService for Bookings {
    const NAME: &'static str = "demo.Bookings";
}

/// Books a seat for a tenant under a key.
pub(crate) async fn book(
    channel: Channel,
    tenant: &str,
    key: &str,
    seat: &str,
) -> Result<Response<Booking>, Status> {
    let mut request = Request::new(Seat {
        name: seat.to_owned(),
    });
    let metadata = |text: &str| {
        text.parse()
            .map_err(|_| Status::invalid_argument("not ASCII"))
    };
    request
        .metadata_mut()
        .insert("authorization", metadata(tenant)?);
    request
        .metadata_mut()
        .insert("idempotency-key", metadata(key)?);
    let mut client = tonic::client::Grpc::new(channel);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static("/demo.Bookings/Book");
    client.unary(request, path, ProstCodec::default()).await
}
