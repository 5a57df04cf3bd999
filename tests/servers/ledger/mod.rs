//! A ledger that is right after any number of kills and retries: each transfer commits with its reply.
//!
//! Processes make 1,000 transfers, 10,000 with `ONCEWARD_FULL=1`, from one of 12 accounts to another, each in a transaction
//! that keeps its reply. They are killed from outside at random moments, die by themselves at each moment that matters,
//! stall for longer than the lease, and forget to confirm. Whatever wasn't acknowledged is tried again, by several callers
//! at once. In the end every balance is right, and every transfer was made once and was answered with the same bytes.

mod books;
mod fate;
mod in_postgres;
mod in_redb;
mod run;
mod worker;

use std::time::Duration;

use crate::node::Told;
use support::start::folder;
use support::start::postgres::PostgresServer;

/// Short, so that what a dead process had begun is soon tried again.
const LEASE: Duration = Duration::from_millis(300);

fn transfers() -> u64 {
    let is_full_run = std::env::var_os("ONCEWARD_FULL").is_some_and(|value| value != "0");
    if is_full_run { 10_000 } else { 1_000 }
}

#[test]
#[ignore = "the worker of the tests here"]
fn makes_transfers_until_it_dies() {
    if let Some(told) = Told::here() {
        worker::work(&told);
    }
}

#[test]
fn a_ledger_on_postgres_is_right_after_any_number_of_kills_and_retries() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    in_postgres::make_tables(&server);
    let seen = run::all_made(&format!("postgres {}", server.url()), 4, transfers());
    println!("{}", seen.summary());
    in_postgres::books(&server).check(&seen.acknowledged);
    seen.check();
    let engine = worker::engine_on_postgres(&server.url());
    books::check_replays(&engine, &seen.acknowledged);
}

#[test]
fn a_ledger_in_redb_is_right_after_any_number_of_kills_and_retries() {
    let folder = folder();
    let seen = run::all_made(&format!("redb {}", folder.path().display()), 1, transfers());
    let (engine, bank) = worker::engine_beside_redb(folder.path());
    println!("{}", seen.summary());
    bank.books().check(&seen.acknowledged);
    seen.check();
    books::check_replays(&engine, &seen.acknowledged);
}

#[test]
fn a_ledger_in_postgres_beside_an_engine_of_a_folder_is_right_after_any_number_of_kills_and_retries()
 {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let folder = folder();
    in_postgres::make_tables(&server);
    let store = format!("beside {} {}", folder.path().display(), server.url());
    let seen = run::all_made(&store, 1, transfers());
    println!("{}", seen.summary());
    in_postgres::books(&server).check(&seen.acknowledged);
    seen.check();
    let engine = worker::engine_beside_postgres(folder.path(), &server.url());
    books::check_replays(&engine, &seen.acknowledged);
}
