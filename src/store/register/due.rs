//! Answers that are given once the thread has nothing else to do: who is woken takes the processor, and everybody else's answer would
//! have to wait for that.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::task::yield_now;

use crate::decision::Verdict;
use crate::error::Result;
use crate::store::Answer;
use crate::sync::running::Run;

/// How many may be due.
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
    let count = ALL.with_borrow_mut(|all| {
        all.push(due);
        all.len()
    });
    match count {
        // Comes after all that have something to do, and what has arrived from the server meanwhile.
        1 => drop(tokio::spawn(async {
            yield_now().await;
            give();
        })),
        MOST => give(),
        _ => {}
    }
}

/// Gives those that are due in this thread.
fn give() {
    let all = ALL.with_borrow_mut(std::mem::take);
    for Due {
        answer, verdict, ..
    } in all
    {
        // A waker of the caller's that panics must not end the thread.
        drop(catch_unwind(AssertUnwindSafe(|| answer.send(verdict))));
    }
}
