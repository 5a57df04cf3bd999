//! Opening connections, with or without TLS.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, Error, Notification, Socket};

pub(super) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Is given each notification that comes.
pub(super) type Heard = Box<dyn Fn(&Notification) + Send + Sync>;

/// Opens connections.
pub(super) trait Dial: Send + Sync {
    /// A connection, which a task serves that ends with it.
    fn dial(
        &self,
        config: Config,
        heard: Heard,
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
            });
            Ok((client, task))
        })
    }
}

/// For the pool, which hears nothing.
pub(super) struct Deaf(pub(super) Arc<dyn Dial>);

impl deadpool_postgres::Connect for Deaf {
    fn connect(&self, config: &Config) -> Boxed<'_, Result<(Client, JoinHandle<()>), Error>> {
        self.0.dial(config.clone(), Box::new(|_| ()))
    }
}
