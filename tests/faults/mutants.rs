//! The tests here catch what they are there for: each defect is switched on in a process of its own, whose tests
//! have to fail.

use std::process::{Command, Output};

/// Each defect, tests that catch it, and what these say then: some are caught by a cut, others in the life before.
const MUTANTS: [(&str, &str, &str); 17] = [
    ("AnswerFirst", "power_cuts::a_cut_at_every_call", "panicked"),
    (
        "TailCutAtDamage",
        "log::damage_before_the_last_frame",
        "was opened",
    ),
    ("FrameAnywhere", "log::a_frame_that_stands", "Corrupt"),
    ("FrameOfAnybody", "log::frames_of_another", "Corrupt"),
    (
        "FrameOfEarlierFile",
        "log::frames_of_an_earlier_file",
        "Corrupt",
    ),
    (
        "NewLogNotSynced",
        "power_cuts::a_cut_at_every_call",
        "cut after call",
    ),
    (
        "LeaderLeavesOthers",
        "interruptions::a_caller_that_commits_alone",
        "never went on",
    ),
    (
        "BelievesFailedSync",
        "interruptions::what_is_written_after",
        "panicked",
    ),
    (
        "NoFileSync",
        "power_cuts::a_cut_at_every_call",
        "cut after call",
    ),
    (
        "NoFolderSync",
        "power_cuts::a_cut_at_every_call",
        "cut after call",
    ),
    (
        "JournalDroppedEarly",
        "power_cuts::a_cut_at_every_call",
        "cut after call",
    ),
    (
        "AnyToken",
        "promises::a_guard_that_was_taken_over",
        "panicked",
    ),
    (
        "NoScope",
        "promises::the_same_key_of_another_scope",
        "panicked",
    ),
    ("UnlinkedEarly", "power_cuts::random_cuts", "but the key is"),
    (
        "UnlinkedOutOfOrder",
        "promises::what_was_forgotten",
        "panicked",
    ),
    (
        "ScopesNotKept",
        "power_cuts::a_cut_at_every_call",
        "counts by scope are lost",
    ),
    (
        "ScopesNotEnded",
        "power_cuts::random_cuts",
        "are others than all",
    ),
];

/// Runs tests in a process of their own.
pub(crate) fn run(mutant: Option<&str>, tests: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(tests);
    if let Some(mutant) = mutant {
        command.env("ONCEWARD_MUTANT", mutant);
    }
    command.output().unwrap()
}

pub(crate) fn is_caught(mutant: &str, tests: &str, by: &str) -> bool {
    let output = run(Some(mutant), tests);
    let said = String::from_utf8_lossy(&output.stdout);
    !output.status.success() && said.contains(by)
}

#[test]
fn every_mutant_is_caught() {
    let survivors: Vec<&str> = MUTANTS
        .iter()
        .filter(|(mutant, tests, by)| !is_caught(mutant, tests, by))
        .map(|(mutant, ..)| *mutant)
        .collect();
    assert!(survivors.is_empty(), "these were not caught: {survivors:?}");
    for (_, tests, _) in MUTANTS {
        let output = run(None, tests);
        assert!(output.status.success(), "{tests} fails without a mutant");
    }
    println!("{} of {} mutants caught", MUTANTS.len(), MUTANTS.len());
}
