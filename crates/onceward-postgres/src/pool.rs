//! How the server is reached, and what holds on every connection.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime,
};
use onceward::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;
use tokio_postgres::{Config, SimpleQueryMessage};

use super::dial::{Deaf, Dial};

/// How long a statement waits for a row that somebody has locked, unless it is a patient one.
const SHORT_LOCK_WAIT: Duration = Duration::from_millis(50);

/// How often a connection that says nothing is asked whether it still is one.
const PROBES: u32 = 3;

/// A connection of the pool's, and its prepared statements.
pub(super) type Connection = ClientWrapper;

/// How the server is reached.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) connections: usize,
    pub(super) timeout: Duration,
    pub(super) makes_table: bool,
}

impl Settings {
    /// What the database's URL doesn't say of the time that a server may be silent. One that is cut
    /// off is given up, and the next of several asked, within the time of a call that is under way.
    pub(super) fn notice_silence(&mut self) {
        let Self {
            config, timeout, ..
        } = self;
        let silence = *config.get_tcp_user_timeout().unwrap_or(&(*timeout / 5 * 3));
        let hosts = config.get_hosts().len().max(config.get_hostaddrs().len());
        let others = u32::try_from(hosts).map_or(0, |hosts| hosts.saturating_sub(1));
        // With another host to go to, the rest of that time is for getting there.
        let silence = if others == 0 {
            silence
        } else {
            silence / 5 * 3
        };
        config.tcp_user_timeout(silence);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(match others {
                0 => *timeout / 5 * 3,
                others => silence.min(*timeout) / 5 / others,
            });
        }
        // That alone doesn't end a connection on which nothing but an answer is due. The system
        // counts these in whole seconds.
        let silence = silence.as_secs();
        let idle = (silence / 2).max(1);
        if config.get_keepalives_idle() == Config::new().get_keepalives_idle() {
            config.keepalives_idle(Duration::from_secs(idle));
        }
        if config.get_keepalives_interval().is_none() {
            let interval = (silence.saturating_sub(idle) / u64::from(PROBES)).max(1);
            config.keepalives_interval(Duration::from_secs(interval));
        }
        if config.get_keepalives_retries().is_none() {
            config.keepalives_retries(PROBES);
        }
    }
}

/// The connections of one register; `made` counts them as they are made.
pub(super) fn pool(settings: &Settings, made: &Arc<AtomicU64>) -> Result<Pool> {
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = Manager::from_connect(
        settings.config.clone(),
        Deaf {
            dial: Arc::clone(&settings.dial),
            places: Arc::new(Semaphore::new(settings.connections)),
            made: Arc::clone(made),
        },
        recycling,
    );
    let session = session(settings.timeout);
    let prepared = Hook::async_fn(move |connection: &mut Connection, _| {
        let session = session.clone();
        Box::pin(async move {
            let said = connection.simple_query(&session).await;
            let said = said.map_err(HookError::Backend)?;
            if reads_only(&said) {
                return Err(HookError::message(
                    "the server only reads: it is a standby; name the primary, or all hosts with target_session_attrs=read-write",
                ));
            }
            Ok(())
        })
    });
    let pool = Pool::builder(manager)
        .max_size(settings.connections)
        .runtime(Runtime::Tokio1)
        .post_create(prepared)
        .build();
    pool.map_err(|error| {
        Error::with_source(
            ErrorKind::InvalidConfig,
            "the pool of connections can't be made",
            error,
        )
    })
}

/// What holds on every connection: a commit is on the disk, no statement fails for what others
/// read, nothing waits for longer than whoever asked, and a transaction whose end never arrives
/// holds its rows no longer.
fn session(timeout: Duration) -> String {
    let (timeout_ms, lock_wait) = (timeout.as_millis(), SHORT_LOCK_WAIT.min(timeout / 4));
    // Set even where it is on already: the server's own setting may change under an open connection.
    format!(
        "SET default_transaction_isolation = 'read committed'; SET statement_timeout = {timeout_ms}; SET lock_timeout = {}; \
         SET idle_in_transaction_session_timeout = {timeout_ms}; \
         SELECT set_config('synchronous_commit', CASE WHEN synchronous IN ('off', 'local') THEN 'on' ELSE synchronous END, false) \
         FROM current_setting('synchronous_commit', true) AS synchronous WHERE synchronous IS NOT NULL; \
         SELECT current_setting('transaction_read_only', true) AS reads_only",
        lock_wait.as_millis(),
    )
}

fn reads_only(said: &[SimpleQueryMessage]) -> bool {
    said.iter().any(|message| match message {
        SimpleQueryMessage::Row(row) => matches!(row.try_get("reads_only"), Ok(Some("on"))),
        _ => false,
    })
}
