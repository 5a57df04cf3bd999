//! A closed store with segments of every kind, and what is in it.

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

fn is_journal(name: &str) -> bool {
    name.starts_with("segment-")
}

/// A merged segment bears two numbers.
fn is_merged(name: &str) -> bool {
    name.starts_with("sealed-") && name.matches('-').count() == 2
}

impl Sample {
    /// A store with sealed and merged segments, a rolled journal and an active one.
    pub(super) fn new() -> Self {
        let bench = Bench::in_memory();
        let mut sample = Self {
            bench,
            files: BTreeMap::new(),
            keys: BTreeMap::new(),
        };
        let mut engine = sample.builder().open(sample.path()).unwrap();
        for number in 0..36 {
            sample.add(&engine, number);
            sealed(&engine);
        }
        eventually(|| engine.stats().sealed_segments <= 4);
        for number in 36.. {
            assert!(number < 500, "no segment stays unsealed");
            sample.add(&engine, number);
            engine.close().unwrap();
            let journals = sample
                .names()
                .iter()
                .filter(|name| is_journal(name))
                .count();
            if journals > 1 {
                break;
            }
            engine = sample.builder().open(sample.path()).unwrap();
        }
        let names = sample.names();
        assert!(names.iter().any(|name| is_merged(name)), "{names:?}");
        let plain = |name: &&String| name.starts_with("sealed-") && !is_merged(name);
        assert!(names.iter().find(plain).is_some(), "{names:?}");
        let read = |name: String| (name.clone(), fs::read(sample.path().join(name)).unwrap());
        sample.files = names.into_iter().map(read).collect();
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
