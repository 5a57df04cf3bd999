//! The way back from a store to the one who asked, which never loses a grant.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll};

use futures_channel::oneshot;

use super::{Request, Seen, Store};
use crate::decision::{Command, Verdict};
use crate::error::Result;
use crate::key::Key;
use crate::secret::Digest;

/// The store's end. Dropping it unanswered tells the caller that the store is gone.
pub(crate) struct Answer {
    sender: Option<oneshot::Sender<Delivery>>,
    home: Option<Home>,
}

/// The caller's end: a future that also ends when the store is gone, with `None`.
pub(crate) struct Pending {
    receiver: oneshot::Receiver<Delivery>,
}

/// Where a grant goes back to if nobody takes it.
struct Home {
    store: Weak<dyn Store>,
    key: Key,
    digest: Digest,
}

/// A verdict under way. If it is a grant and is dropped before it is taken, because the caller's
/// future was dropped or its channel is gone, the key is released: no handler has run.
struct Delivery {
    result: Option<Result<Verdict>>,
    home: Option<Home>,
}

impl Answer {
    /// Both ends, for a request to `store`.
    pub(crate) fn new(store: Weak<dyn Store>, request: &Request) -> (Self, Pending) {
        let (sender, receiver) = oneshot::channel();
        let home = matches!(request.command, Command::Begin { .. }).then(|| Home {
            store,
            key: request.key.clone(),
            digest: request.digest,
        });
        let answer = Self {
            sender: Some(sender),
            home,
        };
        (answer, Pending { receiver })
    }

    /// The answer to a request that nobody waits for.
    pub(crate) fn ignored() -> Self {
        Self {
            sender: None,
            home: None,
        }
    }

    /// Whether nobody waits for it.
    #[cfg(any(test, feature = "register"))]
    pub(crate) fn is_ignored(&self) -> bool {
        self.sender.is_none()
    }

    pub(crate) fn send(self, result: Result<Verdict>) {
        if let Some(sender) = self.sender {
            let delivery = Delivery {
                result: Some(result),
                home: self.home,
            };
            // If the caller is gone, the delivery comes back inside the error and is dropped here.
            drop(sender.send(delivery));
        }
    }
}

impl Future for Pending {
    type Output = Option<Result<Verdict>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(context).map(|delivery| {
            delivery
                .ok()
                .and_then(|mut delivery| delivery.result.take())
        })
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let (Some(Ok(Verdict::Proceed(grant))), Some(home)) = (&self.result, self.home.take())
        else {
            return;
        };
        if let Some(store) = home.store.upgrade() {
            let release = Request {
                key: home.key,
                digest: home.digest,
                command: Command::Release { token: grant.token },
                seen: Seen::default(),
            };
            store.submit(release, Answer::ignored());
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending")
    }
}
