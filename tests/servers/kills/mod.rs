//! Processes that are killed at random moments, and servers that are killed in the midst of it.
//!
//! 8 processes with 32 callers each want the same 200 keys, which are others four times a second. 10 seconds on each store in
//! `cargo test`, 10 minutes with `ONCEWARD_FULL=1`.

mod notes;
mod worker;

use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::node::Node;
use notes::{Found, Notes};
use support::start::eventually;
use support::start::postgres::PostgresServer;
use support::start::redis::Cluster;

const PROCESSES: usize = 8;
const CALLERS: u64 = 32;
const KEYS: u64 = 200;
const LEASE: Duration = Duration::from_secs(1);
const GENERATION: Duration = Duration::from_millis(250);
/// How many generations there are in a lease.
const PER_LEASE: u64 = 4;
const BETWEEN_KILLS: Duration = Duration::from_millis(300);

fn duration() -> Duration {
    let is_full_run = std::env::var_os("ONCEWARD_FULL").is_some_and(|value| value != "0");
    Duration::from_secs(if is_full_run { 600 } else { 10 })
}

/// The processes, and what they have said so far.
struct Load {
    store: String,
    nodes: Vec<(Node, JoinHandle<()>)>,
    notes: Arc<Mutex<Notes>>,
    kills: usize,
}

impl Load {
    fn start(store: &str) -> Self {
        let mut load = Self {
            store: store.to_owned(),
            nodes: Vec::new(),
            notes: Arc::default(),
            kills: 0,
        };
        load.nodes = (0..PROCESSES).map(|number| load.node(number)).collect();
        load
    }

    fn node(&self, number: usize) -> (Node, JoinHandle<()>) {
        let test = "kills::worker::works_until_it_is_killed";
        let mut node = Node::start(test, &self.store, number);
        let (said, notes) = (node.said(), Arc::clone(&self.notes));
        let listener = thread::spawn(move || {
            for line in said {
                notes.lock().unwrap().take(&line);
            }
        });
        (node, listener)
    }

    /// Kills one, and starts another in its place.
    fn kill(&mut self, number: usize) {
        let next = self.node(number);
        let (mut node, listener) = std::mem::replace(&mut self.nodes[number], next);
        assert!(node.is_running(), "it has died by itself");
        node.kill();
        listener.join().unwrap();
        self.kills += 1;
    }

    fn kill_at_random(&mut self, duration: Duration) {
        let start = Instant::now();
        while start.elapsed() < duration {
            thread::sleep(BETWEEN_KILLS);
            let random = worker::now() / 1_000;
            self.kill(usize::try_from(random).unwrap() % PROCESSES);
        }
    }

    /// Waits until so many more completions were acknowledged.
    fn completes(&self, more: usize) {
        let completions = || self.notes.lock().unwrap().completions();
        let before = completions();
        eventually("more is completed", || {
            (completions() >= before + more).then_some(())
        });
    }

    /// Kills them all; gives what they have done.
    fn end(self, what: &str) -> Found {
        for (mut node, listener) in self.nodes {
            assert!(node.is_running(), "it has died by itself");
            node.kill();
            listener.join().unwrap();
        }
        let mut notes = self.notes.lock().unwrap();
        let found = notes.held_against(&worker::engine(&self.store));
        println!("{what}: {} processes killed; {found}; {notes}", self.kills);
        assert!(self.kills > 0 && found.renewals > 0);
        found
    }
}

fn holds(found: &Found) {
    assert_eq!((found.doubles, found.torn, found.lost), (0, 0, 0));
    assert!(found.completed > 0 && found.replayed > 0 && found.taken_over > 0);
}

#[test]
fn killed_processes_on_postgresql_leave_one_guard_per_key_and_lease_and_lose_nothing() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let mut load = Load::start(&server.url());
    load.kill_at_random(duration());
    holds(&load.end("PostgreSQL"));
}

#[test]
fn killed_processes_on_a_redis_cluster_leave_one_guard_per_key_and_lease_and_lose_nothing() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let mut load = Load::start(&cluster.urls());
    load.kill_at_random(duration());
    holds(&load.end("Redis Cluster"));
}

#[test]
fn a_synchronous_standby_that_is_promoted_under_load_has_all_that_was_acknowledged() {
    let settings = ["synchronous_standby_names=standby"];
    let Some(mut primary) = PostgresServer::start_with(&settings) else {
        return;
    };
    let standby = primary.standby();
    eventually("the standby is synchronous", || {
        let state = primary.query("SELECT sync_state FROM pg_stat_replication");
        (state == "sync").then_some(())
    });
    let mut load = Load::start(&PostgresServer::url_of(&[&primary, &standby]));
    load.completes(200);
    primary.kill();
    let start = Instant::now();
    standby.promote();
    load.completes(1);
    let outage = start.elapsed();
    load.kill_at_random(duration() / 3);
    load.completes(200);
    println!("answers again {outage:?} after the primary was killed");
    // Callers needn't have seen anything of it.
    assert_eq!(standby.query("SELECT pg_is_in_recovery()"), "f");
    assert_ne!(
        standby.query("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'onceward'"),
        "0"
    );
    holds(&load.end("PostgreSQL, standby promoted"));
}

/// What an asynchronous failover loses is counted, and no failure of the test.
#[test]
fn a_redis_primary_that_is_killed_under_load_is_followed_by_its_replica() {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    let mut load = Load::start(&cluster.urls());
    load.completes(200);
    cluster.servers[0].kill();
    let start = Instant::now();
    eventually("a replica is a primary", || {
        (cluster.primaries().len() == 3).then_some(())
    });
    let outage = start.elapsed();
    println!("its replica is a primary {outage:?} after it was killed");
    load.kill_at_random(duration() / 3);
    load.completes(200);
    let found = load.end("Redis Cluster, primary killed");
    assert!(found.completed > 0 && found.replayed > 0);
}
