//! The ledger on a server of PostgreSQL that the test starts.

use std::process::Command;

use support::start::postgres::PostgresServer;

#[test]
fn the_ledger_in_postgresql_makes_its_transfer_once() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let mut ledger = Command::new(env!("CARGO_BIN_EXE_ledger-postgres"));
    let output = ledger.arg(server.url()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("the other, again: moved 30"), "{said}");
    assert!(said.contains("bob got 30"), "{said}");
}
