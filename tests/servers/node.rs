//! Processes of the tests' own: this program again, at one of its ignored tests.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

const STORE: &str = "ONCEWARD_TEST_STORE";
const NUMBER: &str = "ONCEWARD_TEST_NODE";

/// A process that is killed when this is dropped.
pub(crate) struct Node {
    child: Child,
    said: Option<BufReader<ChildStdout>>,
}

impl Node {
    /// Runs the ignored test of that whole name, which finds store and number with [`Told::here`].
    pub(crate) fn start(test: &str, store: &str, number: usize) -> Self {
        Self::with(
            &[test, "--exact", "--ignored", "--nocapture"],
            store,
            number,
        )
    }

    /// Runs all tests whose names have that in them, but the ignored ones.
    pub(crate) fn run(tests: &str, store: &str, number: usize) -> Self {
        Self::with(&[tests], store, number)
    }

    fn with(arguments: &[&str], store: &str, number: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(arguments)
            .env(STORE, store)
            .env(NUMBER, number.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = child.stdout.take().map(BufReader::new);
        Self { child, said }
    }

    /// What it says from now on, line by line, until it ends: to be read in a thread of its own.
    pub(crate) fn said(&mut self) -> impl Iterator<Item = String> + Send + use<> {
        let said = self.said.take().unwrap();
        said.lines().map_while(Result::ok)
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended by itself, and well; gives what it has said that nobody has read.
    pub(crate) fn finish(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        let said = self.said.take();
        let said = said.map_or_else(Vec::new, |said| {
            said.lines().map_while(Result::ok).collect()
        });
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}", said.join("\n"));
        said
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process was started with.
pub(crate) struct Told {
    pub(crate) store: String,
    pub(crate) number: usize,
}

impl Told {
    /// `None` where somebody runs the ignored tests by hand.
    pub(crate) fn here() -> Option<Self> {
        let store = std::env::var(STORE).ok()?;
        let number = std::env::var(NUMBER).ok()?.parse().ok()?;
        Some(Self { store, number })
    }
}

/// Tells the test something in one write, so that a kill can't cut it off.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}
