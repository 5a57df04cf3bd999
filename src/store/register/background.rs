//! A runtime of the engine's own.

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, ErrorKind, Result};

/// One thread, which is told to end when this is dropped: nobody waits for it, so that it can be dropped in async code.
#[derive(Debug)]
pub(crate) struct Background(Option<Runtime>);

impl Background {
    pub(crate) fn start(name: &'static str) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build();
        runtime.map(|runtime| Self(Some(runtime))).map_err(|error| {
            Error::with_source(
                ErrorKind::Io,
                "a thread of the engine's can't be started",
                error,
            )
        })
    }

    pub(crate) fn handle(&self) -> &Handle {
        let runtime = self.0.as_ref();
        runtime
            .expect("the runtime is there until it is dropped")
            .handle()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
