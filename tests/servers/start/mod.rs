//! Servers of the tests' own.

pub(crate) mod postgres;
pub(crate) mod proxy;

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the test should go without its server. Never so in the project's own check.
pub(crate) fn is_skipped() -> bool {
    let is_skipped = std::env::var_os("ONCEWARD_SKIP_SERVERS").is_some();
    if is_skipped {
        eprintln!("skipped: ONCEWARD_SKIP_SERVERS is set");
    }
    is_skipped
}

/// A folder on the disk that the build is on; `/tmp` may be memory.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|program| program.is_file())
}

/// A port that nobody has just now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Starts a server whose words go to a file.
pub(crate) fn spawn(command: &mut Command, log: &Path) -> Child {
    let output = File::create(log).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap()
}

/// Waits until a server is up. The limit is for a broken one, not for a slow machine.
pub(crate) fn wait_until(what: &str, log: &Path, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > PATIENCE {
            let log = fs::read_to_string(log).unwrap_or_default();
            panic!("{what} took too long; it said:\n{log}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal to some processes that may be gone.
pub(crate) fn signal(name: &str, processes: &[u32]) {
    if processes.is_empty() {
        return;
    }
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}"));
    kill.args(processes.iter().map(u32::to_string));
    kill.stderr(Stdio::null()).status().unwrap();
}
