//! A tonic server behind the layer: a call that is made twice with one key books once.
//!
//! ```sh
//! cargo run --release -p grpc-tonic
//! ```

mod bookings;

use bookings::{Bookings, book};
use onceward_http::http::header::AUTHORIZATION;
use onceward_http::tower::IdempotencyLayer;
use onceward_http::{Engine, Profile, Scope};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder().open_in_memory()?;
    // Successes are kept: gRPC's status, in the trailers, decides. A failed call frees its key.
    let idempotency = IdempotencyLayer::new(engine, Profile::deel(), |request| {
        Scope::header(&request.headers, &AUTHORIZATION)
    });
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let address = incoming.local_addr()?;
    let server = Server::builder()
        .layer(idempotency)
        .add_service(Bookings::default());
    tokio::spawn(server.serve_with_incoming(incoming));

    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .connect()
        .await?;
    for (key, seat) in [
        ("key-1", "12A"),
        ("key-1", "12A"),
        ("key-1", "12B"),
        ("key-2", "12B"),
    ] {
        match book(channel.clone(), "tenant", key, seat).await {
            Ok(booking) => println!("{key}, seat {seat}: {}", booking.get_ref().id),
            Err(status) => println!(
                "{key}, seat {seat}: {:?}, {}",
                status.code(),
                status.message()
            ),
        }
    }
    Ok(())
}
