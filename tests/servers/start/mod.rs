//! Servers of the tests' own, on loopback, with their files in a temporary folder.

pub(crate) mod redis;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// A process that is killed when this is dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub(crate) fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        let kill = kill.args([format!("-{name}"), self.0.id().to_string()]);
        assert!(kill.status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a program is there; fails if it isn't, unless the tests that need it were asked to be skipped.
pub(crate) fn is_there(program: &str, install: &str) -> bool {
    let mut command = Command::new(program);
    let command = command.arg("--version").stdout(Stdio::null());
    if command.status().is_ok_and(|status| status.success()) {
        return true;
    }
    let is_skipped = std::env::var_os("ONCEWARD_SKIP_SERVERS").is_some();
    assert!(
        is_skipped,
        "{program} is missing: {install}, or set ONCEWARD_SKIP_SERVERS to skip these tests"
    );
    println!("skipped: {program} is missing");
    false
}

/// A port that nobody listens on, nor on the one that is `further` above it.
pub(crate) fn free_port(further: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u32 = 20_000;
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
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
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
