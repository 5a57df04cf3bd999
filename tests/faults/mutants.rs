//! The tests here catch what they are there for: each defect is switched on in a process of its own, whose tests
//! have to fail.

use std::process::{Command, Stdio};

/// Each defect, and tests that catch it.
const MUTANTS: [(&str, &str); 8] = [
    ("AnswerFirst", "power_cuts::a_cut_at_every_call"),
    ("NoFileSync", "power_cuts::a_cut_at_every_call"),
    ("NoFolderSync", "power_cuts::a_cut_at_every_call"),
    ("JournalDroppedEarly", "power_cuts::a_cut_at_every_call"),
    ("AnyToken", "promises::a_guard_that_was_taken_over"),
    ("NoScope", "promises::the_same_key_of_another_scope"),
    ("UnlinkedEarly", "power_cuts::random_cuts"),
    ("UnlinkedOutOfOrder", "promises::what_was_forgotten"),
];

fn passes(mutant: Option<&str>, tests: &str) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .arg(tests)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(mutant) = mutant {
        command.env("ONCEWARD_MUTANT", mutant);
    }
    command.status().unwrap().success()
}

#[test]
fn every_mutant_is_caught() {
    let survivors: Vec<&str> = MUTANTS
        .iter()
        .filter(|(mutant, tests)| passes(Some(mutant), tests))
        .map(|(mutant, _)| *mutant)
        .collect();
    assert!(survivors.is_empty(), "these were not caught: {survivors:?}");
    for (_, tests) in MUTANTS {
        assert!(passes(None, tests), "{tests} fails without a mutant");
    }
    println!("{} of {} mutants caught", MUTANTS.len(), MUTANTS.len());
}
