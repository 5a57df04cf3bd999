//! PostgreSQL on loopback.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::network::Network;
use super::{Process, eventually, folder, free_port, on_path, signal, skip};

const USER: &str = "onceward";

/// A cluster of databases with a server that is killed when this is dropped.
pub struct PostgresServer {
    folder: TempDir,
    programs: PathBuf,
    owner: Option<(u32, u32)>,
    port: u16,
    settings: Vec<String>,
    /// Where it is, if not on loopback.
    network: Option<Network>,
    process: Option<Process>,
}

impl PostgresServer {
    /// `None` if there is no PostgreSQL here and that is all right.
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    pub fn start_with(settings: &[&str]) -> Option<Self> {
        Self::start_on(None, settings)
    }

    /// One that is reached through a network which can be cut.
    pub fn start_in(network: Network, settings: &[&str]) -> Option<Self> {
        Self::start_on(Some(network), settings)
    }

    fn start_on(network: Option<Network>, settings: &[&str]) -> Option<Self> {
        let Some(mut server) = Self::prepared(settings) else {
            skip("PostgreSQL", "apt-get install postgresql");
            return None;
        };
        server.network = network;
        let mut initdb = server.program("initdb");
        initdb.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        initdb
            .args(["--username", USER, "--pgdata"])
            .arg(server.data());
        run(&mut initdb);
        if server.network.is_some() {
            let path = server.data().join("pg_hba.conf");
            let mut rules = fs::read_to_string(&path).unwrap();
            rules.push_str("host all all samenet trust\nhost replication all samenet trust\n");
            fs::write(path, rules).unwrap();
        }
        server.restart();
        Some(server)
    }

    /// A standby of this one, which is up but may lag behind. Its name for `synchronous_standby_names` is `standby`.
    pub fn standby(&self) -> Self {
        let mut standby = Self::prepared(&[]).unwrap();
        let mut copy = standby.program("pg_basebackup");
        let primary = format!("{} application_name=standby", self.words());
        copy.args([
            "--checkpoint=fast",
            "--write-recovery-conf",
            "--no-sync",
            "--dbname",
            &primary,
        ]);
        run(copy.arg("--pgdata").arg(standby.data()));
        standby.restart();
        standby
    }

    fn prepared(settings: &[&str]) -> Option<Self> {
        let programs = programs()?;
        let folder = folder();
        let owner = owner();
        if let Some((uid, gid)) = owner {
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        Some(Self {
            folder,
            programs,
            owner,
            port: free_port(0),
            settings: settings.iter().map(ToString::to_string).collect(),
            network: None,
            process: None,
        })
    }

    /// Starts the server, again if it was killed.
    pub fn restart(&mut self) {
        let mut postgres = match &self.network {
            None => self.program("postgres"),
            Some(network) => network.program(&self.programs.join("postgres"), self.owner),
        };
        postgres
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()]);
        let listens = format!("listen_addresses={}", self.host());
        let fixed = [
            listens.as_str(),
            "unix_socket_directories=",
            "log_min_messages=fatal",
            "fsync=on",
            "max_connections=400",
            "shared_buffers=64MB",
        ];
        let settings = fixed
            .into_iter()
            .chain(self.settings.iter().map(String::as_str));
        for setting in settings {
            postgres.args(["-c", setting]);
        }
        self.process = Some(Process::start(&mut postgres));
        eventually("PostgreSQL is up", || self.is_up().then_some(()));
    }

    fn is_up(&self) -> bool {
        let mut ready = self.program("pg_isready");
        ready.args([
            "-q",
            "-h",
            self.host(),
            "-p",
            &self.port.to_string(),
            "-d",
            "postgres",
        ]);
        ready.status().unwrap().success()
    }

    fn host(&self) -> &str {
        let network = self.network.as_ref();
        network.map_or("127.0.0.1", |network| &network.address)
    }

    /// Cuts it off from everybody, without a word to anybody.
    pub fn cut_off(&self) {
        self.network.as_ref().unwrap().cut();
    }

    pub fn url(&self) -> String {
        Self::url_at(self.port)
    }

    /// The same, reached through another port.
    pub fn url_at(port: u16) -> String {
        format!("postgres://{USER}@127.0.0.1:{port}/postgres")
    }

    /// For several servers, of which the one is meant that takes writes.
    pub fn url_of(servers: &[&Self]) -> String {
        let hosts: Vec<String> = servers
            .iter()
            .map(|server| format!("{}:{}", server.host(), server.port))
            .collect();
        format!(
            "postgres://{USER}@{}/postgres?target_session_attrs=read-write",
            hosts.join(",")
        )
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn words(&self) -> String {
        format!("host={} port={} user={USER}", self.host(), self.port)
    }

    /// What a query gives: its first row's first column, or nothing.
    pub fn query(&self, sql: &str) -> String {
        let mut psql = self.program("psql");
        psql.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-d",
            &format!("{} dbname=postgres", self.words()),
            "-c",
            sql,
        ]);
        run(&mut psql).trim().to_owned()
    }

    /// Kills it and all its processes.
    pub fn kill(&mut self) {
        let processes = self.processes();
        signal("KILL", &processes);
        self.process = None;
    }

    /// Stops its processes where they are, until they are told to [go on](PostgresServer::go_on).
    pub fn stop(&self) {
        signal("STOP", &self.processes());
    }

    pub fn go_on(&self) {
        signal("CONT", &self.processes());
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        let mut promote = self.program("pg_ctl");
        run(promote
            .args(["promote", "--wait", "--pgdata"])
            .arg(self.data()));
    }

    fn processes(&self) -> Vec<u32> {
        let Some(process) = &self.process else {
            return Vec::new();
        };
        let path = format!("/proc/{0}/task/{0}/children", process.id());
        let children = fs::read_to_string(path).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|id| id.parse().ok());
        std::iter::once(process.id()).chain(children).collect()
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(self.folder.path());
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.go_on();
        if self.process.is_some() {
            // Killed outright, it would leave its shared memory behind.
            let mut stop = self.program("pg_ctl");
            stop.args(["stop", "--mode=immediate", "--pgdata"])
                .arg(self.data());
            drop(stop.stdout(Stdio::null()).stderr(Stdio::null()).status());
        }
        self.kill();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{} failed: {}",
        command.get_program().display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The newest version that Debian has installed, or what is on the path.
fn programs() -> Option<PathBuf> {
    let version = |folder: &Path| folder.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = versions
        .map(|folder| folder.path().join("bin"))
        .filter(|folder| folder.join("initdb").is_file())
        .max_by_key(|folder| version(folder));
    newest.or_else(|| Some(on_path("initdb")?.parent()?.to_owned()))
}

/// Whom the server runs as, which refuses to run as root.
fn owner() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let owner = users.lines().find_map(|line| {
        let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    Some(owner.expect("the package postgresql makes a user of that name"))
}
