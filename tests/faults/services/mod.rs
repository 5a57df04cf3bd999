//! Layer, engine and store together, under faults: some nodes on one register whose server and
//! whose ways to it fail as a plan tells, and one node on a folder whose disk does. A seed tells
//! the plan.

mod judge;
mod node;
mod plan;
mod server;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use onceward::Key;
use onceward::faults::{Failures, Random, Recorder, mutant};
use onceward_http::{Disposition, Fate};
use parking_lot::Mutex;
use tokio::time::sleep;

use self::judge::{Evidence, Excuse, Kept, STALL_MS, Verdict};
use self::node::{Node, Runs, builder};
use self::plan::{END_MS, FAULTS_END_MS, LEASE_MS, Plan, REQUESTS_END_MS};
use self::server::Server;
use crate::mutants::is_caught;
use crate::power_cuts::is_full;

/// Seeds of lives that once failed, beyond the first 200, which are always lived.
const KEPT_SEEDS: [u64; 4] = [572, 4244, 5119, 9298];
/// How many lives are lived at once: most of the time each of them waits.
const AT_ONCE: usize = 40;

/// Notes when the machine itself stands still: all lives do then.
struct Stalls {
    began: Instant,
    found: Arc<Mutex<Vec<(u64, u64)>>>,
    is_over: Arc<AtomicBool>,
}

impl Stalls {
    fn watch() -> Self {
        let stalls = Self {
            began: Instant::now(),
            found: Arc::default(),
            is_over: Arc::default(),
        };
        let (found, is_over) = (Arc::clone(&stalls.found), Arc::clone(&stalls.is_over));
        let began = stalls.began;
        std::thread::spawn(move || {
            let at_ms = || u64::try_from(began.elapsed().as_millis()).unwrap();
            let mut last = at_ms();
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
                let now = at_ms();
                if now - last > STALL_MS {
                    found.lock().push((last, now));
                }
                last = now;
            }
        });
        stalls
    }

    /// Since a moment, counted from there.
    fn since(&self, began: Instant) -> Vec<(u64, u64)> {
        let offset = u64::try_from((began - self.began).as_millis()).unwrap();
        let found = self.found.lock();
        let since = found.iter().filter(|(from, _)| *from >= offset);
        since
            .map(|(from, to)| (from - offset, to - offset))
            .collect()
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// A client that wants one key's request to be carried out, and asks again once it is.
async fn client(
    server: Arc<Server>,
    nodes: Arc<Vec<Node>>,
    key: String,
    mut random: Random,
    kept: Arc<Mutex<Vec<Kept>>>,
) {
    server
        .sleep_until(random.below(LEASE_MS as usize * 4) as u64)
        .await;
    let mut asks_again = 3;
    while server.at_ms() < REQUESTS_END_MS && asks_again > 0 {
        let node = &nodes[random.below(nodes.len())];
        let answer = node.post(&key).await;
        if let Some(answer) = answer.filter(|answer| answer.status == 201) {
            asks_again -= 1;
            let is_kept = matches!(
                answer.disposition,
                Some(Disposition::Executed {
                    answer: Fate::Kept,
                    ..
                })
            );
            if is_kept {
                let (key, body) = (key.clone(), answer.body);
                kept.lock().push(Kept { key, body });
            }
        }
        let pause = 10 + random.below(LEASE_MS as usize / 2) as u64;
        sleep(Duration::from_millis(pause)).await;
    }
}

async fn drained(nodes: &[Node], server: &Server) {
    for node in nodes {
        let left = END_MS.saturating_sub(server.at_ms()).max(1);
        drop(tokio::time::timeout(Duration::from_millis(left), node.drain.wait()).await);
    }
}

/// In memory where that is possible: how long the disk takes beside other tests is no fault of the plan's.
fn folder() -> tempfile::TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm");
    in_memory.or_else(|_| tempfile::tempdir()).unwrap()
}

/// What a node gives each key in the end.
async fn replays(node: &Node, keys: &[String]) -> HashMap<String, Option<String>> {
    let mut last = HashMap::new();
    for key in keys {
        // The layer's fingerprint isn't known here, so that the key is looked up.
        let text = Key::new("tenant", key).unwrap();
        let entry = node.engine.lookup_async(&text).await.unwrap();
        let reply = entry.and_then(|entry| match entry.state {
            onceward::EntryState::Completed { reply, .. } => Some(reply),
            _ => None,
        });
        let body = reply.map(|reply| String::from_utf8_lossy(reply.body()).into_owned());
        last.insert(key.clone(), body);
    }
    last
}

async fn live(seed: u64, stalls: Arc<Stalls>) -> Verdict {
    let plan = Arc::new(Plan::new(seed));
    let server = Server::new(Arc::clone(&plan));
    let (runs, kept): (Arc<Runs>, Arc<Mutex<Vec<Kept>>>) = Default::default();
    let folder = folder();
    let (nodes, on_folder, recorder) = {
        let (server, runs, path) = (
            Arc::clone(&server),
            Arc::clone(&runs),
            folder.path().join("engine"),
        );
        let opened = tokio::task::spawn_blocking(move || {
            let recorder = Recorder::watch(&path).unwrap();
            let engine = builder(&server.plan).open(&path).unwrap();
            let on_folder = Node::of_folder(&server, engine, &runs);
            let nodes = (0..server.plan.nodes).map(|node| Node::on(&server, node, &runs));
            (nodes.collect::<Vec<_>>(), vec![on_folder], recorder)
        });
        opened.await.unwrap()
    };
    let (nodes, on_folder) = (Arc::new(nodes), Arc::new(on_folder));
    let mut random = Random::new(!seed);
    let mut tasks = Vec::new();
    let keys: Vec<_> = (0..plan.keys)
        .map(|number| format!("{seed}-{number}"))
        .collect();
    let of_folder: Vec<_> = (0..3)
        .map(|number| format!("{seed}-folder-{number}"))
        .collect();
    for (keys, nodes) in [(&keys, &nodes), (&of_folder, &on_folder)] {
        for key in keys.iter().flat_map(|key| [key, key]) {
            let (server, nodes) = (Arc::clone(&server), Arc::clone(nodes));
            let (random, kept) = (Random::new(random.next()), Arc::clone(&kept));
            tasks.push(tokio::spawn(client(
                server,
                nodes,
                key.clone(),
                random,
                kept,
            )));
        }
    }
    for (at_ms, event) in plan.events.clone() {
        let server = Arc::clone(&server);
        tasks.push(tokio::spawn(async move {
            server.sleep_until(at_ms).await;
            server.happen(event);
        }));
    }
    tasks.push(tokio::spawn(disk(Arc::clone(&server), recorder)));
    for task in tasks {
        task.await.unwrap();
    }
    server.sleep_until(FAULTS_END_MS).await;
    drained(&nodes, &server).await;
    drained(&on_folder, &server).await;
    // A node that knows nothing of what was.
    let fresh = {
        let (server, runs) = (Arc::clone(&server), Arc::clone(&runs));
        let fresh = move || Node::on(&server, usize::MAX - 1, &runs);
        tokio::task::spawn_blocking(fresh).await.unwrap()
    };
    let mut last = replays(&fresh, &keys).await;
    last.extend(replays(&on_folder[0], &of_folder).await);
    let verdict = Evidence {
        plan: &plan,
        noted: &server.noted(),
        runs: &runs.all(),
        stalls: &stalls.since(server.began()),
        kept: &kept.lock().clone(),
        last: &last,
    }
    .judge();
    tokio::task::spawn_blocking(move || drop((nodes, on_folder, fresh, folder)))
        .await
        .unwrap();
    verdict
}

/// Lets the folder's disk fail as the plan tells.
async fn disk(server: Arc<Server>, recorder: Arc<Recorder>) {
    let mut plan = server.plan.disk.clone();
    plan.sort_unstable();
    for (from, to) in plan {
        server.sleep_until(from).await;
        recorder.fail(Failures::Calls {
            after: 0,
            count: usize::MAX,
        });
        server.sleep_until(to).await;
        recorder.fail(Failures::None);
    }
}

#[test]
fn no_attempt_runs_beside_another_and_no_answer_is_lost_without_an_excuse() {
    let lives = match mutant() {
        Some(_) => 80,
        None if is_full() => 10_000,
        None => 200,
    };
    let chosen = std::env::var("ONCEWARD_SEED").ok();
    let seeds: Vec<u64> = match chosen {
        Some(seed) => {
            let seed = seed.parse().unwrap();
            println!("{:#?}", Plan::new(seed));
            vec![seed]
        }
        None => KEPT_SEEDS.into_iter().chain(1..=lives).collect(),
    };
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let stalls = Arc::new(Stalls::watch());
    let verdicts = runtime.block_on(async {
        let room = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        let lives = seeds.into_iter().map(|seed| {
            let (room, stalls) = (Arc::clone(&room), Arc::clone(&stalls));
            tokio::spawn(async move {
                let _room = room.acquire().await.unwrap();
                (seed, live(seed, stalls).await)
            })
        });
        let lives: Vec<_> = lives.collect();
        let mut verdicts = Vec::new();
        for life in lives {
            verdicts.push(life.await.unwrap());
        }
        verdicts
    });
    tell(&verdicts, began.elapsed());
}

/// One defect for each fault that this was built to find.
#[test]
fn each_defect_of_leases_first_cells_and_completions_is_caught() {
    let defects = [
        "StopsRenewing",
        "LeaseByServersClock",
        "FirstCellMakesSecret",
        "CompletionGivenUp",
    ];
    let survivors: Vec<_> = defects
        .into_iter()
        .filter(|defect| !is_caught(defect, "services::no_attempt", "against the promises"))
        .collect();
    assert!(survivors.is_empty(), "these were not caught: {survivors:?}");
    println!("{} of {} defects caught", defects.len(), defects.len());
}

fn tell(verdicts: &[(u64, Verdict)], took: Duration) {
    let mut excuses: BTreeMap<Excuse, usize> = BTreeMap::new();
    let (mut grants, mut renewals, mut failed) = (0, 0, Vec::new());
    for (seed, verdict) in verdicts {
        grants += verdict.grants;
        renewals += verdict.renewals;
        for (excuse, count) in &verdict.excuses {
            *excuses.entry(*excuse).or_default() += count;
        }
        if !verdict.violations.is_empty() {
            failed.push(seed);
        }
        for violation in &verdict.violations {
            println!("seed {seed}: {violation}");
        }
    }
    println!(
        "{} lives, {grants} grants, {renewals} renewals, {:.1} s; excused: {excuses:?}; {} lives against the \
         promises: {failed:?}",
        verdicts.len(),
        took.as_secs_f64(),
        failed.len()
    );
    assert!(failed.is_empty(), "lives against the promises: {failed:?}");
}
