//! The servers that the bench starts for itself and stops again.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use postgres::NoTls;
use tempfile::TempDir;

use crate::interrupt;

pub(crate) const POSTGRES_USER: &str = "versus";

const START_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

pub(crate) fn redis_program() -> Option<PathBuf> {
    on_path("redis-server")
}

/// The folder of `initdb`, `postgres` and `pg_ctl`: of the newest version that Debian has installed, or
/// one on the path.
pub(crate) fn postgres_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
        .max_by_key(|folder| version_of(folder));
    newest.or_else(|| {
        let program = on_path("postgres")?;
        on_path("initdb")?;
        Some(program.parent()?.to_owned())
    })
}

fn version_of(bin: &Path) -> Option<u32> {
    bin.parent()?.file_name()?.to_str()?.parse().ok()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|program| program.is_file())
}

/// A child that is killed when it is dropped.
struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    fn spawn(command: &mut Command, log: PathBuf) -> Result<Self> {
        let output = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{} could not be started", program(command)))?;
        Ok(Self { child, log })
    }

    /// Waits until it serves.
    fn wait_until(&mut self, is_up: impl Fn() -> bool) -> Result<()> {
        let since = Instant::now();
        while !is_up() {
            let has_ended = self.child.try_wait()?.is_some();
            if has_ended || since.elapsed() > START_PATIENCE {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("the server did not come up; it said:\n{log}");
            }
            sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, after Ctrl-C for example.
        if let Ok(None) = self.child.try_wait()
            && let Err(error) = self.child.kill()
        {
            eprintln!("a server could not be killed: {error}");
        }
        drop(self.child.wait());
    }
}

pub(crate) struct RedisServer {
    _server: Server,
    port: u16,
}

impl RedisServer {
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let program = redis_program().context("there is no redis-server")?;
        let port = free_port()?;
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        command.arg("--dir").arg(folder);
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        // Neither snapshots nor rewrites of the log while it is measured.
        command.args(["--save", "", "--auto-aof-rewrite-percentage", "0"]);
        let mut server = Server::spawn(&mut command, folder.join("server.log"))?;
        server.wait_until(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())?;
        Ok(Self {
            _server: server,
            port,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// The port may be taken by somebody else before the server binds it; the server then says so.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

pub(crate) struct PostgresServer {
    server: Server,
    /// Short, since a socket's path may have 107 bytes; nothing in it has to be durable.
    sockets: TempDir,
    programs: PathBuf,
    data: PathBuf,
    owner: Option<Owner>,
}

impl PostgresServer {
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let programs = postgres_programs().context("there is no PostgreSQL")?;
        let owner = Owner::other_than_root()?;
        let sockets = tempfile::Builder::new().prefix("versus-").tempdir()?;
        fs::set_permissions(sockets.path(), Permissions::from_mode(0o755))?;
        if let Some(owner) = owner {
            owner.give(folder)?;
            owner.give(sockets.path())?;
        }
        let data = folder.join("data");
        let mut initdb = Command::new(programs.join("initdb"));
        initdb.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        initdb.args(["--username", POSTGRES_USER, "--pgdata"]);
        run(initdb.arg(&data).current_dir(folder), owner)?;

        let mut command = Command::new(programs.join("postgres"));
        command.arg("-D").arg(&data).current_dir(folder);
        command.arg("-k").arg(sockets.path());
        for setting in [
            "listen_addresses=",
            "fsync=on",
            "synchronous_commit=on",
            "max_connections=300",
            // No checkpoint because of the log's size while it is measured.
            "max_wal_size=8GB",
            "shared_buffers=256MB",
        ] {
            command.args(["-c", setting]);
        }
        as_user(&mut command, owner);
        let mut server = Server::spawn(&mut command, folder.join("server.log"))?;
        let mut client = postgres::Config::new();
        client.host_path(sockets.path());
        client.user(POSTGRES_USER).dbname("postgres");
        server.wait_until(|| client.connect(NoTls).is_ok())?;
        Ok(Self {
            server,
            sockets,
            programs,
            data,
            owner,
        })
    }

    pub(crate) fn sockets(&self) -> &Path {
        self.sockets.path()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.server.child.try_wait() {
            return;
        }
        // Killed outright, it would leave its shared memory behind.
        let mut stop = Command::new(self.programs.join("pg_ctl"));
        stop.args(["stop", "--mode=immediate", "--timeout=10", "--pgdata"]);
        let stopped = run(stop.arg(&self.data).current_dir("/"), self.owner);
        // Ctrl-C reaches it too: it is then on its way out by itself.
        if let Err(error) = stopped
            && !interrupt::is_set()
        {
            eprintln!("PostgreSQL could not be stopped: {error:#}");
        }
    }
}

/// Whom Postgres runs as, since it refuses to run as root.
#[derive(Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    fn other_than_root() -> Result<Option<Self>> {
        if fs::metadata("/proc/self")?.uid() != 0 {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd")?;
        let owner = users.lines().find_map(|line| {
            let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
            Some(Self {
                uid: fields.next()?.parse().ok()?,
                gid: fields.next()?.parse().ok()?,
            })
        });
        let owner =
            owner.context("PostgreSQL refuses to run as root, and there is no user postgres")?;
        Ok(Some(owner))
    }

    fn give(self, folder: &Path) -> Result<()> {
        chown(folder, Some(self.uid), Some(self.gid))?;
        Ok(())
    }
}

fn as_user(command: &mut Command, owner: Option<Owner>) {
    if let Some(owner) = owner {
        command.uid(owner.uid).gid(owner.gid);
    }
}

fn run(command: &mut Command, owner: Option<Owner>) -> Result<()> {
    as_user(command, owner);
    let output = command.stdin(Stdio::null()).output().with_context(|| {
        format!(
            "{} could not be run; may the user postgres enter the folder? (see --folder)",
            program(command)
        )
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{} failed: {said}",
        program(command)
    );
    Ok(())
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// What a program calls its version, for the report.
pub(crate) fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
