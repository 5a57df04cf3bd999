//! Histories of 4 processes with 8 threads each on the same keys of one store, held against the state table by the checker
//! of `tests/integration`.
//!
//! 8,000 operations per store, 200,000 with `ONCEWARD_FULL=1`. Calls and returns are ordered by the machine's monotonic
//! clock, which all processes share. The store's clock runs by itself and can't be stood still. So the histories' unit of time
//! is longer than any of them takes, and all processes are moved on by whole units while none of them does anything: a
//! time that a record has is noted in the nearest whole unit, and then is as exact as with a clock that stands still. A lease
//! and a retention are shorter than their number of units by less than a half, so that what the real time adds never decides
//! whether one has ended.

#[path = "../integration/linearizability/checker.rs"]
mod checker;
mod process;
#[path = "../integration/linearizability/reference.rs"]
mod reference;
#[path = "../integration/linearizability/verdict.rs"]
mod verdict;
#[path = "../integration/linearizability/worker.rs"]
mod worker;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use crate::node::Node;
use checker::Event;
use process::{DONE, Order};
use reference::Time;
use support::engine::is_full_run;
use support::start::postgres::PostgresServer;
use support::start::redis::Cluster;
use worker::{Random, ms};

const PROCESSES: usize = 4;
const THREADS_PER_PROCESS: usize = 8;
const THREADS: usize = PROCESSES * THREADS_PER_PROCESS;
const KEYS: usize = 10;
const OPERATIONS_PER_HISTORY: usize = 8_000;
/// A lease is a hundred of them, and at most a day.
const UNIT: Duration = Duration::from_secs(860);

type Lines = Box<dyn Iterator<Item = String>>;

/// The processes, and what they say.
struct Processes(Vec<(Node, Lines)>);

impl Processes {
    fn start(url: &str) -> Self {
        let start = |number| {
            let test = "linearizability::process::works_by_order";
            let mut node = Node::start(test, url, number);
            let lines: Lines = Box::new(node.said());
            (node, lines)
        };
        Self((0..PROCESSES).map(start).collect())
    }

    /// Has all of them do something at once; gives what they say until they are done.
    fn all(&mut self, order: &Order) -> Vec<String> {
        let order = serde_json::to_string(order).unwrap();
        for (node, _) in &mut self.0 {
            node.tell(&order);
        }
        let mut said = Vec::new();
        for (_, lines) in &mut self.0 {
            loop {
                match lines.next() {
                    Some(line) if line == DONE => break,
                    Some(line) => said.push(line),
                    None => panic!("a process has ended: {said:?}"),
                }
            }
        }
        said
    }

    /// A history on fresh keys, by how many units time was moved meanwhile, and how often.
    fn history(&mut self, number: usize, zero_ms: u64) -> (Vec<(usize, Event)>, Time, usize) {
        let mut random = Random(0x2545_f491_4f6c_dd1d ^ (number as u64 + 1));
        self.all(&Order::Begin { number, zero_ms });
        let start = Instant::now();
        let (mut operations, mut passed, mut moves) = (0, 0, 0);
        while operations < OPERATIONS_PER_HISTORY {
            let done = self.all(&Order::Work);
            let done = done.iter().filter_map(|line| line.parse::<usize>().ok());
            operations += done.sum::<usize>();
            let units = random.step();
            self.all(&Order::Move { units });
            passed += units;
            moves += 1;
        }
        let took = start.elapsed();
        assert!(took < UNIT / 4, "{took:?} is too long for {UNIT:?}");
        let lines = self.all(&Order::Report);
        let events = lines.iter().filter(|line| line.starts_with('['));
        let events = events.map(|line| serde_json::from_str(line).unwrap());
        (events.collect(), passed, moves)
    }
}

fn is_linearizable(name: &str, url: &str) {
    let histories = if is_full_run() { 25 } else { 1 };
    let mut processes = Processes::start(url);
    let start = Instant::now();
    let (mut operations, mut moves, mut violations, mut passed) = (0, 0, 0, 0);
    let mut seen = BTreeMap::new();
    for number in 0..histories {
        let unit_ms = u64::try_from(UNIT.as_millis()).unwrap();
        let zero_ms = ms(SystemTime::now()) + passed * unit_ms;
        let (events, units, times) = processes.history(number, zero_ms);
        passed += units;
        moves += times;
        operations += events.len();
        let (found, kinds) = verdict::on(&events, KEYS);
        violations += found;
        for (kind, times) in kinds {
            *seen.entry(kind).or_insert(0) += times;
        }
    }
    println!(
        "{name}: {operations} operations of {PROCESSES} processes in {:?}, {moves} moves of the clock, {violations} violations: {seen:?}",
        start.elapsed()
    );
    assert_eq!(violations, 0);
    assert_eq!(seen.len(), verdict::KINDS);
    processes.all(&Order::End);
    for (node, lines) in processes.0 {
        lines.for_each(drop);
        node.finish();
    }
}

#[test]
fn histories_of_four_processes_on_postgresql_are_those_of_the_state_table_in_some_order() {
    if let Some(server) = PostgresServer::start() {
        is_linearizable("PostgreSQL", &server.url());
    }
}

#[test]
fn histories_of_four_processes_on_a_redis_cluster_are_those_of_the_state_table_in_some_order() {
    if let Some(cluster) = Cluster::start() {
        is_linearizable("Redis Cluster", &cluster.urls());
    }
}
