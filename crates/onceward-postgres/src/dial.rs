//! Opening connections, with or without TLS.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, Error, Notification, Socket};

pub(super) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Is given each notification that comes.
pub(super) type Heard = Box<dyn Fn(&Notification) + Send + Sync>;

/// One of those that there are for connections.
pub(super) type Place = OwnedSemaphorePermit;

/// Opens connections.
pub(super) trait Dial: Send + Sync {
    /// A connection, which a task serves that ends with it, and holds its place until then.
    fn dial(
        &self,
        config: Config,
        heard: Heard,
        place: Option<Place>,
    ) -> Boxed<'_, Result<(Client, JoinHandle<()>), Error>>;
}

/// With this connector for TLS.
pub(super) struct Dialer<T>(pub(super) T);

impl<T> Dial for Dialer<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send + Sync,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    fn dial(
        &self,
        config: Config,
        heard: Heard,
        place: Option<Place>,
    ) -> Boxed<'_, Result<(Client, JoinHandle<()>), Error>> {
        let tls = self.0.clone();
        Box::pin(async move {
            let (client, mut connection) = config.connect(tls).await?;
            let task = tokio::spawn(async move {
                // Errors reach whoever uses the client.
                while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                    if let AsyncMessage::Notification(notification) = message {
                        heard(&notification);
                    }
                }
                drop((connection, place));
            });
            Ok((client, task))
        })
    }
}

/// For the pool, which hears nothing. There are never more sockets than places.
pub(super) struct Deaf {
    pub(super) dial: Arc<dyn Dial>,
    pub(super) places: Arc<Semaphore>,
    /// How many connections were made.
    pub(super) made: Arc<AtomicU64>,
}

impl deadpool_postgres::Connect for Deaf {
    /// Whoever gives up leaves the dialling to a task, which holds the place until the server has
    /// said something: else a server that hangs would have one more connection of each call to see
    /// to.
    fn connect(&self, config: &Config) -> Boxed<'_, Result<(Client, JoinHandle<()>), Error>> {
        let (dial, made) = (Arc::clone(&self.dial), Arc::clone(&self.made));
        let (places, config) = (Arc::clone(&self.places), config.clone());
        Box::pin(async move {
            let place = places.acquire_owned().await;
            let place = place.expect("it is never closed");
            let dialling = tokio::spawn(async move {
                let dialled = dial.dial(config, Box::new(|_| ()), Some(place)).await;
                if dialled.is_ok() {
                    // Before anything is asked on it: whoever has an answer of a new connection's
                    // finds it counted.
                    made.fetch_add(1, Ordering::SeqCst);
                }
                dialled
            });
            match dialling.await {
                Ok(dialled) => dialled,
                Err(ended) => match ended.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // Its runtime ends, and whoever waits here with it.
                    Err(_) => std::future::pending().await,
                },
            }
        })
    }
}
