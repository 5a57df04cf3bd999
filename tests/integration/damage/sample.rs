//! A store with segments of every kind, as a crash leaves it, and what is in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use onceward::{Builder, Engine, Entry, EntryState, Reply};

use crate::support::{Bench, eventually, granted, key, sealed};

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Completed { attempt: u32, reply: Reply },
    InFlight { attempt: u32 },
    Free,
}

impl Expected {
    pub(super) fn is(&self, entry: &Entry) -> bool {
        match (self, &entry.state) {
            (Self::Completed { attempt, reply }, EntryState::Completed { reply: found, .. }) => {
                entry.attempt == *attempt && found == reply
            }
            (Self::InFlight { attempt }, EntryState::InFlight { .. }) => entry.attempt == *attempt,
            _ => false,
        }
    }
}

pub(super) struct Sample {
    bench: Bench,
    /// Every file's bytes.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) keys: BTreeMap<String, Expected>,
}

/// Larger than a segment's block from time to time.
fn reply(number: usize) -> Reply {
    let bytes = [0, 1, 40, 300, 2_000, 9_000, 20_000][number % 7];
    let body: Vec<u8> = (0..bytes)
        .map(|at| (at * 31 + number * 7).to_le_bytes()[0])
        .collect();
    Reply::new(200, body).with_header("x-number", number.to_string())
}

/// A key that may be in any state.
pub(super) const TAIL: &str = "tail";

/// Whether the last frame of a log is an empty one, which is there for the one before it.
fn has_witness(log: &[u8]) -> bool {
    let mut blocks = log.chunks(4_096).rev();
    let last = blocks.find(|block| block.starts_with(b"1WARDlog"));
    last.is_some_and(|frame| frame[52..56] == [0; 4])
}

/// A merged segment bears two numbers.
fn is_merged(name: &str) -> bool {
    name.starts_with("sealed-") && name.matches('-').count() == 2
}

impl Sample {
    /// A store with sealed and merged segments, and a log.
    pub(super) fn new() -> Self {
        let bench = Bench::in_memory();
        let mut sample = Self {
            bench,
            files: BTreeMap::new(),
            keys: BTreeMap::new(),
        };
        let engine = sample.builder().open(sample.path()).unwrap();
        for number in 0..36 {
            sample.add(&engine, number);
            sealed(&engine);
        }
        eventually(|| engine.stats().sealed_segments <= 4);
        for number in 36..38 {
            sample.add(&engine, number);
        }
        // What is lost with the last frame and its witness is no key that anybody asks for.
        granted(&engine, TAIL).release().unwrap();
        let log = sample.path().join(sample.log());
        eventually(|| has_witness(&fs::read(&log).unwrap()));
        let names = sample.names();
        assert!(names.iter().any(|name| is_merged(name)), "{names:?}");
        let plain = |name: &&String| name.starts_with("sealed-") && !is_merged(name);
        assert!(names.iter().find(plain).is_some(), "{names:?}");
        // As a crash leaves it.
        let read = |name: String| (name.clone(), fs::read(sample.path().join(name)).unwrap());
        sample.files = names.into_iter().map(read).collect();
        engine.close().unwrap();
        sample
    }

    pub(super) fn path(&self) -> PathBuf {
        self.bench.path()
    }

    pub(super) fn builder(&self) -> Builder {
        self.bench
            .builder()
            .lease(Duration::from_secs(3_600))
            .segment_entries(6)
            .merge_above(4)
            .cache_bytes(1 << 20)
            .replay_cache_bytes(0)
    }

    pub(super) fn expected(&self, name: &str) -> Option<&Expected> {
        self.keys.get(name)
    }

    /// The log's name.
    fn log(&self) -> String {
        let names = self.names().into_iter();
        let mut logs = names.filter(|name| name.starts_with("segment-"));
        logs.next().unwrap()
    }

    fn names(&self) -> Vec<String> {
        let files = fs::read_dir(self.path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    /// Adds a key, in one of the states that a key can be in, or frees an older one.
    fn add(&mut self, engine: &Engine, number: usize) {
        let name = format!("key {number}");
        let guard = granted(engine, &name);
        let expected = match number % 6 {
            2 => Expected::InFlight { attempt: 1 },
            4 => {
                guard.release().unwrap();
                self.keys.insert(name, Expected::Free);
                return;
            }
            _ => {
                guard.complete(reply(number)).unwrap();
                Expected::Completed {
                    attempt: 1,
                    reply: reply(number),
                }
            }
        };
        self.keys.insert(name, expected);
        if number % 6 == 5 && number > 12 {
            let older = format!("key {}", number - 12);
            assert!(engine.forget(&key(&older)).unwrap());
            self.keys.insert(older, Expected::Free);
        }
    }

    /// Puts every file back as it was. The lock file stays, because another one would look like a copy.
    pub(super) fn restore(&self) {
        for name in self.names() {
            if name != "LOCK" {
                fs::remove_file(self.path().join(name)).unwrap();
            }
        }
        for (name, bytes) in &self.files {
            fs::write(self.path().join(name), bytes).unwrap();
        }
    }
}
