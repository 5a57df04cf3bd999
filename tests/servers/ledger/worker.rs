//! A process that makes transfers until it dies or all are made.

use std::collections::{HashSet, VecDeque};
use std::error::Error as _;
use std::io::stdin;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use onceward::{Builder, CompleteError, Engine, Guard, Outcome, Reply};
use onceward_postgres::Postgres;

use super::LEASE;
use super::books::Transfer;
use super::fate::{Fate, Random};
use super::in_postgres::InPostgres;
use super::in_redb::InRedb;
use crate::node::{Told, say};

/// How many callers a process has that owns its engine's folder.
const CALLERS: usize = 4;
/// How long a caller waits for another one's attempt.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where transfers are made.
pub(super) trait Bank {
    fn make(&mut self, transfer: Transfer, guard: Guard, fate: Fate, random: &mut Random) -> Made;
}

/// The transfers that this process has committed, and the engine doesn't know.
type Committed = Mutex<HashSet<u64>>;

/// What came of a transfer.
pub(super) enum Made {
    Confirmed(Reply),
    /// It was committed, and the engine doesn't know.
    Unconfirmed,
    Refused(String),
    /// It isn't known whether it was committed.
    Failed(String),
}

impl Made {
    pub(super) fn refused(refused: CompleteError) -> Self {
        let error = refused.into_parts().2;
        let causes = std::iter::successors(error.source(), |&error| error.source());
        let last = causes.last().map(ToString::to_string);
        Self::Refused(format!("{:?} {}", error.kind(), last.unwrap_or_default()))
    }
}

fn builder() -> Builder {
    Engine::builder().lease(LEASE)
}

pub(super) fn engine_on_postgres(url: &str) -> Engine {
    let postgres = Postgres::builder(url).build().unwrap();
    builder().open_on(postgres).unwrap()
}

pub(super) fn engine_beside_redb(folder: &Path) -> (Engine, InRedb) {
    let bank = InRedb::open(folder);
    let builder = bank.outcomes(builder());
    (builder.open(folder.join("engine")).unwrap(), bank)
}

pub(super) fn engine_beside_postgres(folder: &Path, url: &str) -> Engine {
    let postgres = Postgres::builder(url).build().unwrap();
    let builder = builder().outcomes_in(Arc::new(postgres));
    builder.open(folder.join("engine")).unwrap()
}

/// Makes the transfers that a line from the test names, with all the callers that the store bears.
pub(super) fn work(told: &Told) {
    let mut line = String::new();
    stdin().read_line(&mut line).unwrap();
    let numbers: Vec<u64> = line
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    let words: Vec<&str> = told.store.split(' ').collect();
    match words[..] {
        ["postgres", url] => {
            let engine = engine_on_postgres(url);
            let committed = Committed::default();
            call(
                &engine,
                &mut InPostgres::open(url),
                &numbers,
                told.number,
                &committed,
            );
        }
        ["redb", folder] => {
            let (engine, bank) = engine_beside_redb(Path::new(folder));
            together(&engine, || bank.clone(), &numbers, told.number);
        }
        ["beside", folder, url] => {
            let engine = engine_beside_postgres(Path::new(folder), url);
            together(&engine, || InPostgres::open(url), &numbers, told.number);
        }
        _ => panic!("there is no such store: {words:?}"),
    }
    say("done");
}

/// Several callers, each of whom makes all of the transfers.
fn together<B: Bank>(engine: &Engine, bank: impl Fn() -> B + Sync, numbers: &[u64], number: usize) {
    let committed = Committed::default();
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (bank, committed) = (&bank, &committed);
            let caller = number * CALLERS + caller;
            scope.spawn(move || call(engine, &mut bank(), numbers, caller, committed));
        }
    });
}

/// Makes all of the transfers, again and again where it isn't known whether one was made. Half of the callers go side by
/// side; the others have an order of their own.
fn call(
    engine: &Engine,
    bank: &mut impl Bank,
    numbers: &[u64],
    caller: usize,
    committed: &Committed,
) {
    let mut random = Random::new(caller as u64);
    let mut numbers = numbers.to_vec();
    if !caller.is_multiple_of(2) {
        random.shuffle(&mut numbers);
    }
    let mut left = VecDeque::from(numbers);
    while let Some(number) = left.pop_front() {
        let transfer = Transfer::of(number);
        let is_committed = committed.lock().unwrap().contains(&number);
        let outcome = engine.begin_or_wait(&transfer.key(), &transfer.fingerprint(), PATIENCE);
        match outcome {
            Ok(Outcome::Replay(reply)) => {
                acknowledge("replayed", number, &reply);
                continue;
            }
            Ok(Outcome::Proceed(guard)) => {
                if is_committed {
                    say("again");
                }
                let fate = Fate::drawn(&mut random);
                match bank.make(transfer, guard, fate, &mut random) {
                    Made::Confirmed(reply) => {
                        acknowledge("made", number, &reply);
                        continue;
                    }
                    Made::Unconfirmed => {
                        committed.lock().unwrap().insert(number);
                        // The lease is waited for.
                        left.push_front(number);
                        continue;
                    }
                    Made::Refused(why) => say(&format!("refused {why}")),
                    Made::Failed(why) => say(&format!("failed {why}")),
                }
            }
            Ok(Outcome::InFlight(_)) => say("failed in flight"),
            Ok(Outcome::Conflict(conflict)) => panic!("{number}: {conflict:?}"),
            Err(error) => say(&format!("failed {error}")),
        }
        left.push_back(number);
    }
}

fn acknowledge(how: &str, number: u64, reply: &Reply) {
    let body = String::from_utf8_lossy(reply.body());
    say(&format!("{how} {number} {body}"));
}
