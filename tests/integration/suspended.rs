//! Processes that are stopped and go on later: nobody has told them that time has passed.
//!
//! A stopped process keeps its folder, so that whoever takes over is a thread of its own, once it goes on. Its
//! guards are judged by the clock, which went on meanwhile.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use onceward::{Builder, Engine, ErrorKind, Outcome, Reply, Terms};

use crate::support::{
    eventually, folder, folder_of_child, granted, in_flight, key, replayed, request,
};

/// Short enough to be waited for.
const LEASE: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(3_600);

fn builder() -> Builder {
    Engine::builder().lease(LEASE)
}

fn hear() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// A worker that the test stops and lets go on.
struct Worker {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    fn start(path: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "suspended::works_with_pauses",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env("ONCEWARD_TEST_FOLDER", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut worker = Self { child, said };
        worker.expect("holding");
        worker
    }

    /// Reads on until the worker has said it.
    fn expect(&mut self, line: &str) {
        let found = self
            .said
            .find(|said| said.as_ref().unwrap().ends_with(line));
        assert!(found.is_some(), "the worker ended without saying '{line}'");
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// Stops it until a lease that ran at this moment is over.
    fn stop_past_the_lease(&self) {
        self.signal("-STOP");
        let stopped_at = Instant::now();
        eventually(|| self.is_stopped());
        while stopped_at.elapsed() <= LEASE {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As the kernel has it.
    fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('T')
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A process that is stopped can be killed, too.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Holds some keys, is stopped at the word of the test, and says what became of them.
#[test]
#[ignore = "the child process of the tests here"]
fn works_with_pauses() {
    let Some(path) = folder_of_child() else {
        return;
    };
    let engine = builder().open(path).unwrap();
    let to_complete = granted(&engine, "to complete");
    let mut to_renew = granted(&engine, "to renew");
    let to_release = granted(&engine, "to release");
    let mut taken = granted(&engine, "taken");
    let long = Terms::new(LONG, LONG);
    let Outcome::Proceed(running) = engine
        .begin_with(&key("running"), &request(), long)
        .unwrap()
    else {
        panic!("not granted");
    };
    let waiter = {
        let engine = engine.clone();
        std::thread::spawn(move || engine.begin_or_wait(&key("taken"), &request(), LONG))
    };
    eventually(|| engine.stats().waiters == 1);
    println!("holding");
    assert_eq!(hear(), "go on");
    // By the clock the leases are over, whatever the process knows of it.
    assert_eq!(to_complete.lease_left(), Duration::ZERO);
    assert!(running.lease_left() > Duration::ZERO);
    let Outcome::Proceed(successor) = waiter.join().unwrap().unwrap() else {
        panic!("the lease is over");
    };
    assert_eq!(successor.attempt(), 2);
    assert!(successor.token() > taken.token());
    // Taken over: every word of the late guard is refused.
    assert_eq!(taken.renew().unwrap_err().kind(), ErrorKind::LeaseLost);
    let refused = taken.complete(Reply::new(200, "late")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
    let refused = refused.into_parts().0.release().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
    successor.complete(Reply::new(200, "successor")).unwrap();
    // Over and not taken over: the late guard is the only one there is.
    to_complete.complete(Reply::new(200, "late")).unwrap();
    to_renew.renew().unwrap();
    assert!(to_renew.lease_left() > Duration::ZERO);
    to_release.release().unwrap();
    running.complete(Reply::new(200, "in time")).unwrap();
    println!("settled");
    assert_eq!(hear(), "end");
    engine.close().unwrap();
    println!("closed");
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_that_was_stopped_past_its_lease_completes_what_nobody_took_over_and_nothing_else() {
    let folder = folder();
    let path = folder.path().join("engine");
    let mut worker = Worker::start(&path);
    worker.stop_past_the_lease();
    // It still has its folder: nobody else can take over behind its back.
    let refused = builder().open(&path).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked);
    worker.signal("-CONT");
    worker.tell("go on");
    worker.expect("settled");
    worker.tell("end");
    worker.expect("closed");
    let engine = builder().open(&path).unwrap();
    for (name, body) in [
        ("taken", "successor"),
        ("to complete", "late"),
        ("running", "in time"),
    ] {
        assert_eq!(replayed(&engine, name).body(), body, "{name}");
    }
    assert_eq!(engine.lookup(&key("to release")).unwrap(), None);
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_process_held_that_was_stopped_past_its_lease_and_killed_is_granted_to_the_next() {
    let folder = folder();
    let path = folder.path().join("engine");
    let worker = Worker::start(&path);
    worker.stop_past_the_lease();
    drop(worker);
    let engine = builder().open(&path).unwrap();
    for name in ["to complete", "to renew", "to release", "taken"] {
        assert_eq!(granted(&engine, name).attempt(), 2, "{name}");
    }
    // Its lease is an hour, and nothing has shortened it.
    let left = in_flight(&engine, "running").lease_left();
    assert!(left > LONG / 2 && left < LONG, "{left:?}");
}
