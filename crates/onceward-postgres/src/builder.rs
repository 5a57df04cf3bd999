//! The settings of a register on PostgreSQL.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use onceward::{Error, ErrorKind, Result};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, NoTls, Socket};

use super::Postgres;
use super::dial::{Dial, Dialer};
use super::link::Link;
use super::pool::Settings;
use super::sql::Sql;

const DEFAULT_TABLE: &str = "onceward_records";

/// The settings of a [`Postgres`]; made by [`Postgres::builder`].
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct PostgresBuilder {
    database: String,
    table: String,
    connections: usize,
    timeout: Duration,
    makes_table: bool,
}

impl PostgresBuilder {
    pub(super) fn new(database: String) -> Self {
        Self {
            database,
            table: DEFAULT_TABLE.to_owned(),
            connections: 16,
            timeout: Duration::from_secs(5),
            makes_table: true,
        }
    }

    /// The table's name, with its schema's before it and a dot if it has one: letters, digits and underscores;
    /// `onceward_records` by default.
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = name.into();
        self
    }

    /// How many connections there may be, besides one that hears notifications: 1 to 1,000; 16 by default. Calls above that wait
    /// for one. Four at most make changes at the same time, each for many callers; the others read, or wait for a row that is locked.
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most;
        self
    }

    /// How long one of the engine's calls waits for the server, with everything that is asked again: 10 ms to 10 minutes; 5 seconds
    /// by default. Then it fails closed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether the table is made if it isn't there; `true` by default. [`Postgres::schema`] is the SQL of it.
    pub fn makes_table(mut self, makes: bool) -> Self {
        self.makes_table = makes;
        self
    }

    /// The register, without TLS. Doesn't connect yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if the database's URL can't be read or asks for TLS, or a setting is out of its range.
    pub fn build(self) -> Result<Postgres> {
        let config = self.config()?;
        if matches!(config.get_ssl_mode(), SslMode::Require) {
            return Err(invalid(
                "the database's URL asks for TLS; use build_with_tls, with a connector".to_owned(),
            ));
        }
        self.build_from(config, Arc::new(Dialer(NoTls)))
    }

    /// The register, with a connector for TLS: `tokio-postgres-rustls` and `postgres-native-tls` have one. Doesn't connect yet.
    ///
    /// Whether the server has to have TLS is said by the URL's `sslmode`, as tokio-postgres knows it: `disable`, `prefer` or
    /// `require`. Whose certificates are trusted is the connector's affair.
    ///
    /// ```no_run
    /// use onceward_postgres::Postgres;
    /// # use tokio_postgres::NoTls as Connector; // stands for MakeRustlsConnect
    /// # let tls = Connector;
    ///
    /// // let tls = tokio_postgres_rustls::MakeRustlsConnect::new(rustls_client_config);
    /// let postgres = Postgres::builder("postgres://app@db.internal/app?sslmode=require").build_with_tls(tls)?;
    /// # Ok::<(), onceward::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`build`](PostgresBuilder::build).
    pub fn build_with_tls<T>(self, tls: T) -> Result<Postgres>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let config = self.config()?;
        self.build_from(config, Arc::new(Dialer(tls)))
    }

    fn config(&self) -> Result<Config> {
        let parsed: Result<Config, _> = self.database.parse();
        // The error's own text may have a part of the password.
        let mut config = parsed.map_err(|_| {
            invalid(
                "the database's URL can't be read; see tokio_postgres::Config for its form"
                    .to_owned(),
            )
        })?;
        if config.get_application_name().is_none() {
            config.application_name("onceward");
        }
        Ok(config)
    }

    fn build_from(self, config: Config, dial: Arc<dyn Dial>) -> Result<Postgres> {
        let timeouts = Duration::from_millis(10)..=Duration::from_secs(600);
        if !timeouts.contains(&self.timeout) {
            return Err(invalid(format!(
                "timeout is {:?}; it must be between 10 ms and 10 minutes",
                self.timeout
            )));
        }
        if !(1..=1_000).contains(&self.connections) {
            return Err(invalid(format!(
                "connections is {}; it must be between 1 and 1,000",
                self.connections
            )));
        }
        let sql = Sql::on(&self.table)?;
        let link = Link::new(Settings {
            config,
            dial,
            connections: self.connections,
            timeout: self.timeout,
            makes_table: self.makes_table,
        })?;
        Ok(Postgres::on(link, sql))
    }
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

/// Without the URL, which may have a password.
impl fmt::Debug for PostgresBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBuilder")
            .field("table", &self.table)
            .field("connections", &self.connections)
            .field("timeout", &self.timeout)
            .field("makes_table", &self.makes_table)
            .finish_non_exhaustive()
    }
}
