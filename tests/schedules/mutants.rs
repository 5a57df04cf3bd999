//! The schedules catch what they are there for: each defect is switched on in a process of its own, whose test has to
//! fail.

use std::process::Command;

/// Each defect, and a test that catches it.
const MUTANTS: [(&str, &str); 7] = [
    ("LeftInQueue", "closing::every_call_that_races"),
    ("TurnTaken", "waiting::a_waiter_whose_future_is_dropped"),
    ("TurnKept", "waiting::a_waiter_who_is_refused"),
    ("NoSecondLook", "waiting::each_release_wakes"),
    ("KeepsSuperseded", "upkeep::what_was_forgotten"),
    ("CountsFirst", "upkeep::a_verification_beside"),
    ("WakeLost", "waiting::of_several_who_begin"),
];

fn is_caught(mutant: &str, test: &str) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.arg(test).env("ONCEWARD_MUTANT", mutant).output();
    let output = output.unwrap();
    // It wasn't anything else that failed.
    let said = String::from_utf8_lossy(&output.stdout);
    !output.status.success() && said.contains("failing schedule:")
}

#[test]
fn every_mutant_is_caught() {
    let survivors: Vec<&str> = MUTANTS
        .iter()
        .filter(|(mutant, test)| !is_caught(mutant, test))
        .map(|(mutant, _)| *mutant)
        .collect();
    assert!(survivors.is_empty(), "these were not caught: {survivors:?}");
    println!("{} of {} mutants caught", MUTANTS.len(), MUTANTS.len());
}
