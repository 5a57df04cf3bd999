//! SIGKILL: a child process works until it is killed, and what it acknowledged has to be there.
//!
//! 20 rounds in `cargo test`, 1,000 with `ONCEWARD_FULL=1`.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use onceward::{Builder, Engine, Outcome, Reply};

use crate::support::{folder, is_full_run, key, request};

const CALLERS: u64 = 16;

fn builder(segment_entries: u64) -> Builder {
    // A lease longer than the test, so that a grant is held for as long as anybody looks.
    Engine::builder()
        .lease(Duration::from_secs(3_600))
        .segment_entries(segment_entries)
        .merge_above(4)
}

/// The reply of a key: any damage or mix-up shows.
fn reply(name: &str) -> Reply {
    let hash = blake3::hash(name.as_bytes());
    let bytes = usize::from(hash.as_bytes()[0]) * 8;
    let mut body = vec![0; bytes];
    blake3::Hasher::new()
        .update(name.as_bytes())
        .finalize_xof()
        .fill(&mut body);
    Reply::new(201, body).with_header("x-name", name.to_owned())
}

fn say(line: &str) {
    // One write, so that a kill can't cut a line that was acknowledged before it.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

#[test]
#[ignore = "the child process of the tests here"]
fn works_until_it_is_killed() {
    let Some(path) = std::env::var_os("ONCEWARD_TEST_FOLDER") else {
        return;
    };
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (round, segment_entries) = (
        number("ONCEWARD_TEST_ROUND"),
        number("ONCEWARD_TEST_ENTRIES"),
    );
    let engine = builder(segment_entries).open(path).unwrap();
    say("ready");
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let engine = &engine;
            scope.spawn(move || {
                for step in 0..u64::MAX {
                    let name = format!("{round}-{caller}-{step}");
                    let Outcome::Proceed(guard) = engine.begin(&key(&name), &request()).unwrap()
                    else {
                        panic!("a fresh key was not granted");
                    };
                    say(&format!("granted {name} {}", guard.token()));
                    match step % 10 {
                        // Abandoned on purpose.
                        7 => drop(guard),
                        8 => {
                            say(&format!("releasing {name}"));
                            guard.release().unwrap();
                            say(&format!("released {name}"));
                        }
                        _ => {
                            guard.complete(reply(&name)).unwrap();
                            say(&format!("completed {name}"));
                        }
                    }
                }
            });
        }
    });
}

fn start(path: &Path, round: u64, segment_entries: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "crash::works_until_it_is_killed",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env("ONCEWARD_TEST_FOLDER", path)
        .env("ONCEWARD_TEST_ROUND", round.to_string())
        .env("ONCEWARD_TEST_ENTRIES", segment_entries.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the child last acknowledged of each key.
#[derive(Default)]
struct Acknowledged {
    keys: HashMap<String, &'static str>,
    highest_token: u64,
}

impl Acknowledged {
    fn read(&mut self, line: &str) {
        let mut words = line.split(' ');
        let (word, name) = (words.next().unwrap_or(""), words.next());
        let state = match word {
            "granted" => "granted",
            "completed" => "completed",
            // From here on the key may be held or free.
            "releasing" => "unclear",
            "released" => "released",
            _ => return,
        };
        if let Some(token) = words.next() {
            self.highest_token = self.highest_token.max(token.parse().unwrap());
        }
        self.keys.insert(name.unwrap().to_owned(), state);
    }

    /// Holds everything that was ever acknowledged against the reopened folder.
    fn check(&self, engine: &Engine) {
        for (name, state) in &self.keys {
            let entry = engine.lookup(&key(name)).unwrap();
            if *state == "released" {
                assert_eq!(entry, None, "{name} was released");
                continue;
            }
            if *state == "unclear" && entry.is_none() {
                continue;
            }
            match engine.begin(&key(name), &request()).unwrap() {
                Outcome::Replay(found) => assert_eq!(found, reply(name), "{name}"),
                Outcome::InFlight(_) => assert_ne!(*state, "completed", "{name} was lost"),
                other => panic!("{name} was {state} and is now {other:?}"),
            }
        }
    }
}

/// Kills one child at a moment that depends on the round; gives how many lines it had said.
fn kill_one(path: &Path, round: u64, segment_entries: u64, seen: &mut Acknowledged) -> usize {
    let mut child = start(path, round, segment_entries);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // From the first acknowledgements on to the thick of rolling.
    let wanted = 1 + (round * 7_919 % 1_500) as usize;
    let mut said = 0;
    while said < wanted {
        let line = lines.next().expect("the child ended by itself").unwrap();
        said += usize::from(line.starts_with("granted"));
        seen.read(&line);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What was in the pipe was said before the kill.
    for line in lines {
        seen.read(&line.unwrap());
    }
    said
}

#[test]
fn what_was_acknowledged_before_a_sigkill_is_there_after_it() {
    let rounds = if is_full_run() { 1_000 } else { 20 };
    let mut folder_of_rounds = folder();
    let mut seen = Acknowledged::default();
    let mut checked = 0;
    for round in 0..rounds {
        // Every few rounds a new folder with segments of another size.
        if round % 5 == 0 {
            folder_of_rounds = folder();
            seen = Acknowledged::default();
        }
        let segment_entries = [64, 400_000, 8, 1_000][(round / 5 % 4) as usize];
        let path = folder_of_rounds.path().join("engine");
        kill_one(&path, round, segment_entries, &mut seen);
        let engine = builder(segment_entries).open(&path).unwrap();
        seen.check(&engine);
        let Outcome::Proceed(guard) = engine
            .begin(&key(format!("after {round}")), &request())
            .unwrap()
        else {
            panic!("a fresh key was not granted");
        };
        assert!(
            guard.token() > seen.highest_token,
            "tokens rise over a kill"
        );
        checked += seen.keys.len();
        engine.close().unwrap();
    }
    println!("{rounds} kills, {checked} keys checked after them, 0 lost");
}

#[test]
fn a_frame_that_is_missing_after_a_kill_is_noticed() {
    let folder = folder();
    let path = folder.path().join("engine");
    kill_one(&path, 30, 400_000, &mut Acknowledged::default());
    // Nothing was noted at a close, so that only the log itself can tell.
    let log = path.join("segment-0000000001.log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[5 * 4_096..6 * 4_096].fill(0);
    std::fs::write(&log, bytes).unwrap();
    let error = builder(400_000).open(&path).map(drop).unwrap_err();
    assert_eq!(error.kind(), onceward::ErrorKind::Corrupt, "{error}");
}
