//! gRPC through the layer, with tonic's server and client: the status in the trailers decides.

// A test fails by panicking; in helpers outside of `#[test]` functions, too.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering;

use onceward_http::Profile;
use onceward_http::Scope;
use onceward_http::tower::IdempotencyLayer;
use onceward_http::{Engine, ManualClock};
use tonic::Code;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

#[path = "../src/bookings.rs"]
mod bookings;

use bookings::{Bookings, book};

async fn started(profile: Profile) -> (Channel, Bookings, Engine) {
    let clock = ManualClock::new();
    let engine = Engine::builder().clock(clock).open_in_memory().unwrap();
    let layer = IdempotencyLayer::new(engine.clone(), profile, |request| {
        Scope::header(
            &request.headers,
            &onceward_http::http::header::AUTHORIZATION,
        )
    });
    let bookings = Bookings::default();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = Server::builder().layer(layer).add_service(bookings.clone());
    tokio::spawn(server.serve_with_incoming(incoming));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    (endpoint.connect().await.unwrap(), bookings, engine)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_repeated_gets_the_first_booking_trailers_and_all() {
    for profile in [Profile::deck(), Profile::deel(), Profile::stripe()] {
        let (channel, bookings, _engine) = started(profile).await;
        for _ in 0..2 {
            let response = book(channel.clone(), "tenant", "key", "12A").await.unwrap();
            let booking = response.get_ref();
            assert_eq!(
                (&*booking.id, &*booking.seat, booking.attempt),
                ("booking_1", "12A", 1)
            );
        }
        assert_eq!(bookings.calls.load(Ordering::SeqCst), 1);
        let other = book(channel, "other", "key", "12A").await.unwrap();
        assert_eq!(other.get_ref().id, "booking_2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcs_own_status_decides_whether_a_failure_is_kept() {
    for (profile, is_kept) in [(Profile::deck(), true), (Profile::deel(), false)] {
        let (channel, bookings, _engine) = started(profile).await;
        for call in 1..=2 {
            let status = book(channel.clone(), "tenant", "key", "taken")
                .await
                .unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition);
            let run = if is_kept { 1 } else { call };
            assert_eq!(status.message(), format!("call {run}: the seat is taken"));
            assert_eq!(bookings.calls.load(Ordering::SeqCst), run);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_statuses_of_grpc() {
    let (channel, bookings, engine) = started(Profile::deck()).await;
    book(channel.clone(), "tenant", "key", "12A").await.unwrap();
    let conflict = book(channel.clone(), "tenant", "key", "12B")
        .await
        .unwrap_err();
    assert_eq!(conflict.code(), Code::FailedPrecondition);
    assert_eq!(
        conflict.message(),
        "Idempotency key has already been used with different parameters."
    );
    let long = "k".repeat(257);
    let malformed = book(channel.clone(), "tenant", &long, "12A")
        .await
        .unwrap_err();
    assert_eq!(malformed.code(), Code::InvalidArgument);
    engine.close_async().await.unwrap();
    let unavailable = book(channel, "tenant", "new", "12A").await.unwrap_err();
    assert_eq!(unavailable.code(), Code::Unavailable);
    assert_eq!(unavailable.metadata().get("retry-after").unwrap(), "1");
    assert_eq!(bookings.calls.load(Ordering::SeqCst), 1);
}
