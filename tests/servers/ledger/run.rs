//! Workers that are killed and started again until every transfer was acknowledged.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::fate::{Fate, Random};
use crate::node::Node;

/// After how many lines at the most a worker is killed.
const LINES: u64 = 60;
/// How many transfers that were acknowledged a worker is told with those that weren't.
const KNOWN: usize = 20;
/// The limit is for a broken program, not for a slow machine.
const LONGEST: Duration = Duration::from_secs(900);

/// What the workers said, and what was done to them.
#[derive(Default)]
pub(super) struct Seen {
    /// The replies, by the transfer's number.
    pub(super) acknowledged: HashMap<u64, String>,
    pub(super) kills: usize,
    met: BTreeMap<String, usize>,
    made: usize,
    replayed: usize,
    /// Answers that weren't the first one.
    in_two_ways: usize,
    /// Grants after a commit that nobody had confirmed.
    again: usize,
    refused: BTreeMap<String, usize>,
    failed: BTreeMap<String, usize>,
    took: Duration,
}

struct Run<'a> {
    store: &'a str,
    transfers: u64,
    started: AtomicUsize,
    seen: Mutex<Seen>,
}

/// Has some workers at once make all transfers in that store.
pub(super) fn all_made(store: &str, workers: usize, transfers: u64) -> Seen {
    let run = Run {
        store,
        transfers,
        started: AtomicUsize::new(0),
        seen: Mutex::default(),
    };
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(numbers) = run.numbers() {
                    assert!(start.elapsed() < LONGEST, "it doesn't come to an end");
                    run.work_once(&numbers);
                }
            });
        }
    });
    let mut seen = run.seen.into_inner().unwrap();
    seen.took = start.elapsed();
    seen
}

impl Run<'_> {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// What the next worker is told; `None` once everything was acknowledged.
    fn numbers(&self) -> Option<String> {
        let seen = self.seen();
        let is_known = |number: &u64| seen.acknowledged.contains_key(number);
        let (known, unknown): (Vec<u64>, Vec<u64>) = (0..self.transfers).partition(is_known);
        let again = known.iter().rev().take(KNOWN);
        let numbers = unknown.iter().chain(again);
        let numbers: Vec<String> = numbers.map(ToString::to_string).collect();
        (!unknown.is_empty()).then(|| numbers.join(" "))
    }

    /// Starts a worker, and kills it after a while unless it has died or is done by then.
    fn work_once(&self, numbers: &str) {
        let number = self.started.fetch_add(1, Ordering::SeqCst);
        let mut random = Random::new(number as u64);
        let mut node = Node::start("ledger::makes_transfers_until_it_dies", self.store, number);
        node.tell(numbers);
        let (mut lines, last) = (0, random.below(LINES));
        let (mut has_ended, mut is_killed) = (false, false);
        for line in node.said() {
            has_ended |= self.seen().read(&line);
            lines += 1;
            if lines == last {
                // What it says is said at moments of its own.
                thread::sleep(random.part_of(Duration::from_millis(3)));
                node.kill();
                is_killed = true;
            }
        }
        assert!(has_ended || is_killed, "a worker has failed");
        self.seen().kills += usize::from(is_killed);
    }
}

impl Seen {
    /// Takes note of a line; gives whether it is, or may be, the worker's last one.
    fn read(&mut self, line: &str) -> bool {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let count = |counts: &mut BTreeMap<String, usize>| {
            *counts.entry(rest.to_owned()).or_default() += 1;
        };
        match word {
            "done" => return true,
            "met" => {
                count(&mut self.met);
                return rest.starts_with("DiesAt");
            }
            "made" | "replayed" => {
                *(if word == "made" {
                    &mut self.made
                } else {
                    &mut self.replayed
                }) += 1;
                let (number, body) = rest.split_once(' ').unwrap();
                let known = self.acknowledged.entry(number.parse().unwrap());
                let known = known.or_insert_with(|| body.to_owned());
                self.in_two_ways += usize::from(known != body);
            }
            "again" => self.again += 1,
            "refused" => count(&mut self.refused),
            "failed" => count(&mut self.failed),
            // What the test harness says.
            _ => {}
        }
        false
    }

    /// Sees that the workers met with everything that was in store for them, and were killed often enough.
    pub(super) fn check(&self) {
        for fate in Fate::ALL {
            let is_met = self.met.contains_key(&format!("{fate:?}"));
            assert!(is_met, "{fate:?} was not met with");
        }
        assert_eq!(self.again, 0, "granted again after the commit");
        assert_eq!(self.in_two_ways, 0, "answered in two ways");
        assert!(self.kills >= 20, "{} kills", self.kills);
    }

    fn deaths(&self) -> usize {
        let died = self
            .met
            .iter()
            .filter(|(fate, _)| fate.starts_with("DiesAt"));
        self.kills + died.map(|(_, times)| times).sum::<usize>()
    }

    pub(super) fn summary(&self) -> String {
        let lines = |counts: &BTreeMap<String, usize>| {
            let counts = counts
                .iter()
                .map(|(what, times)| format!("\n    {times} × {what}"));
            counts.collect::<String>()
        };
        format!(
            "{} transfers in {:?}: {} answers made and {} replayed, {} otherwise than before, {} granted after a commit; {} workers died, {} of them killed from outside\n  \
             met:{}\n  refused:{}\n  failed:{}",
            self.acknowledged.len(),
            self.took,
            self.made,
            self.replayed,
            self.in_two_ways,
            self.again,
            self.deaths(),
            self.kills,
            lines(&self.met),
            lines(&self.refused),
            lines(&self.failed),
        )
    }
}
