//! Servers of the tests' own, on loopback, with their files in a temporary folder.

pub mod network;
pub mod postgres;
pub mod proxy;
pub mod redis;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub use crate::engine::folder;

/// A process that is killed when this is dropped.
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let command = command.stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, name: &str) {
        signal(name, &[self.id()]);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a signal to some processes that may be gone.
pub fn signal(name: &str, processes: &[u32]) {
    if processes.is_empty() {
        return;
    }
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}"));
    kill.args(processes.iter().map(u32::to_string));
    kill.stderr(Stdio::null()).status().unwrap();
}

/// Says that a program isn't there.
///
/// # Panics
///
/// If it should be: where nobody asked for the tests that need it to be skipped.
pub fn skip(what: &str, install: &str) {
    let is_skipped = std::env::var_os("ONCEWARD_SKIP_SERVERS").is_some_and(|value| value != "0");
    assert!(
        is_skipped,
        "{what} is missing: {install}, or set ONCEWARD_SKIP_SERVERS to skip these tests"
    );
    println!("skipped: {what} is missing");
}

pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|program| program.is_file())
}

/// A port that nobody listens on, nor on the one that is `further` above it.
pub fn free_port(further: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Both below those that the system gives to clients, which would take one before its server does.
    const FIRST: u32 = 10_000;
    const PORTS: u32 = 10_000;
    loop {
        let next = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + (std::process::id().wrapping_mul(37) + next) % PORTS;
        let port = u16::try_from(port).unwrap();
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free(port) && is_free(port + further) {
            return port;
        }
    }
}

/// Asks until something is so. The limit is for a broken program, not for a slow machine.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "it never came true: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
