//! Answers that are given once the thread has nothing else to do: who is woken takes the processor, and everybody else's answer would
//! have to wait for that.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::running::Run;
use crate::decision::Verdict;
use crate::error::Result;
use crate::store::Answer;

/// How many may be due; with more the thread isn't idle soon.
const MOST: usize = 64;

struct Due {
    answer: Answer,
    verdict: Result<Verdict>,
    _run: Run,
}

thread_local! {
    static ALL: RefCell<Vec<Due>> = const { RefCell::new(Vec::new()) };
}

/// Gives an answer soon. The command counts as running until then.
pub(super) fn answer(answer: Answer, verdict: Result<Verdict>, run: Run) {
    let due = Due {
        answer,
        verdict,
        _run: run,
    };
    let are_many = ALL.with_borrow_mut(|all| {
        all.push(due);
        all.len() >= MOST
    });
    if are_many {
        give();
    }
}

/// Gives those that are due in this thread.
pub(super) fn give() {
    let all = ALL.with_borrow_mut(std::mem::take);
    for Due {
        answer, verdict, ..
    } in all
    {
        // A waker of the caller's that panics must not end the thread.
        drop(catch_unwind(AssertUnwindSafe(|| answer.send(verdict))));
    }
}
