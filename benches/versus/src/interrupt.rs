//! Ctrl-C and SIGTERM end the run in order, so that servers are stopped and folders removed.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

static IS_SET: AtomicBool = AtomicBool::new(false);

const EXIT_CODE: i32 = 130;

pub(crate) fn is_set() -> bool {
    IS_SET.load(Ordering::Relaxed)
}

pub(crate) fn check() -> Result<()> {
    if is_set() {
        bail!("interrupted");
    }
    Ok(())
}

/// Starts to listen. A second signal ends the process at once.
pub(crate) fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if IS_SET.swap(true, Ordering::Relaxed) {
                        std::process::exit(EXIT_CODE);
                    }
                    eprintln!("stopping");
                }
            });
        })?;
    Ok(())
}
