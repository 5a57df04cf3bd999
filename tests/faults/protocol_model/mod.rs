//! The protocol as a model, of which every state within small bounds is visited.
//!
//! A few callers begin, complete, renew, release, abandon and forget; the writer decides each command with the
//! crate's own decision, commits what it has decided in batches, publishes and then
//! answers, in any order; begins are answered from what is published where nothing has to change; time passes; what
//! is over is swept; and at any moment a crash drops the batch, or leaves it to the disk with nobody told. After
//! a crash the clock may have been set back to the newest durable time. The callers either die in it, as those of
//! an embedded engine do, or survive with their guards and with calls of unclear outcome, as those of a store
//! on another machine would.
//!
//! What callers have been told is kept beside the store, where no crash reaches it, and the promises are
//! held against that.

mod promises;
mod state;
mod tests;

use onceward::protocol_model::{Answer, Ask, Row, Said, Time};
use stateright::{Model, Property};

use state::{Call, Caller, Crashed, Held, KEYS, Phase, State};

/// What the model can be bent by, to see itself notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    /// Each command is answered as soon as it is decided, before it is durable.
    AnswersFirst,
    /// What is decided is published at once, though its own caller waits for the commit.
    PublishesFirst,
    /// A sweep doesn't note its time, so that a clock set back may be before what it has dropped.
    SweepsWithoutTime,
}

/// The bounds, and how the model is bent.
#[derive(Clone, Copy, Debug)]
struct Protocol {
    callers: usize,
    keys: usize,
    requests: u8,
    tokens: u64,
    horizon: Time,
    crashes: u8,
    callers_survive: bool,
    defect: Option<Defect>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Begin {
        caller: usize,
        key: usize,
        request: u8,
    },
    Complete {
        caller: usize,
    },
    Renew {
        caller: usize,
    },
    Release {
        caller: usize,
    },
    Abandon {
        caller: usize,
    },
    Forget {
        caller: usize,
        key: usize,
    },
    /// Answers a begin from what is published.
    Glance {
        caller: usize,
    },
    Decide {
        caller: usize,
    },
    Commit,
    Answer {
        caller: usize,
    },
    Sweep {
        key: usize,
    },
    Tick,
    Crash {
        is_batch_kept: bool,
        is_clock_set_back: bool,
    },
}

impl Protocol {
    fn actions_of(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let Caller { held, call } = state.callers[at];
        match (held, call.map(|call| call.phase)) {
            (None, None) => {
                for key in 0..self.keys {
                    if state.decided.last_token < self.tokens {
                        actions.extend((0..self.requests).map(|request| Action::Begin {
                            caller: at,
                            key,
                            request,
                        }));
                    }
                    actions.push(Action::Forget { caller: at, key });
                }
            }
            (Some(_), None) => actions.extend([
                Action::Complete { caller: at },
                Action::Renew { caller: at },
                Action::Release { caller: at },
                Action::Abandon { caller: at },
            ]),
            (_, Some(Phase::Queued)) => {
                if matches!(call.map(|call| call.ask), Some(Ask::Begin(_))) {
                    actions.push(Action::Glance { caller: at });
                }
                actions.push(Action::Decide { caller: at });
            }
            (_, Some(Phase::Decided(_))) => {}
            (_, Some(Phase::Ready(_))) => actions.push(Action::Answer { caller: at }),
        }
    }

    fn glance(&self, state: &mut State, at: usize) -> Option<()> {
        let call = state.callers[at].call?;
        let records = if self.defect == Some(Defect::PublishesFirst) {
            state.decided
        } else {
            state.durable
        };
        let row = records.rows[call.key];
        let (said, changed) = row.decide(call.ask, state.now, records.last_token + 1);
        if changed.is_some() {
            return None;
        }
        promises::judge(state, &call, &row, said, changed);
        state.callers[at].call = Some(Call {
            phase: Phase::Ready(said),
            ..call
        });
        if row != state.decided.rows[call.key] {
            // What changes the key is under way, and may be acknowledged before this is heard.
            promises::void(state, call.key);
        }
        Some(())
    }

    fn decide(&self, state: &mut State, at: usize) -> Option<()> {
        let call = state.callers[at].call?;
        let row = state.decided.rows[call.key];
        let next_token = state.decided.last_token + 1;
        if matches!(call.ask, Ask::Begin(_)) && next_token > self.tokens {
            return None;
        }
        let (said, changed) = row.decide(call.ask, state.now, next_token);
        promises::judge(state, &call, &row, said, changed);
        if let Some(changed) = changed {
            state.decided.rows[call.key] = changed;
            state.decided.mark = state.decided.mark.max(state.now);
            if let Said::Proceed { token, .. } = said {
                state.decided.last_token = token;
            }
            if call.ask == Ask::Forget {
                promises::void(state, call.key);
                state.told[call.key].answer = None;
            }
        }
        let phase = if self.defect == Some(Defect::AnswersFirst) {
            Phase::Ready(said)
        } else {
            Phase::Decided(said)
        };
        state.callers[at].call = Some(Call { phase, ..call });
        Some(())
    }

    /// What the sweep has dropped, it notes in the same commit as its time.
    fn sweep(&self, state: &mut State, key: usize) {
        for records in [&mut state.durable, &mut state.decided] {
            records.rows[key] = Row::default();
            if self.defect != Some(Defect::SweepsWithoutTime) {
                records.mark = records.mark.max(state.now);
            }
        }
    }

    fn crash(&self, state: &mut State, is_batch_kept: bool, is_clock_set_back: bool) {
        if state.decided != state.durable {
            state.crashed = if is_batch_kept {
                Crashed::BatchKept
            } else {
                Crashed::BatchLost
            };
        }
        if is_batch_kept {
            state.durable = state.decided;
        } else {
            state.decided = state.durable;
        }
        if is_clock_set_back {
            state.now = state.durable.mark;
        }
        state.crashes += 1;
        for caller in &mut state.callers {
            // A survivor's call fails with an unclear outcome; its guard is given back.
            caller.call = None;
            if !self.callers_survive {
                caller.held = None;
            }
        }
    }
}

fn calls(state: &mut State, at: usize, key: usize, ask: Ask) {
    let phase = Phase::Queued;
    state.callers[at].call = Some(Call { key, ask, phase });
}

/// Asks something with the guard's token. Whoever asks to complete or release has ended its handler.
fn settles(state: &mut State, at: usize, ask: impl FnOnce(&Held) -> Ask) -> Option<()> {
    let held = state.callers[at].held.as_mut()?;
    let (key, ask) = (held.key, ask(held));
    if !matches!(ask, Ask::Renew(_)) {
        held.is_running = false;
        let token = held.token;
        let lease = &mut state.told[key].lease;
        *lease = lease.filter(|(holder, _)| *holder != token);
    }
    calls(state, at, key, ask);
    Some(())
}

fn commit(state: &mut State) {
    state.durable = state.decided;
    for caller in &mut state.callers {
        if let Some(call) = &mut caller.call
            && let Phase::Decided(said) = call.phase
        {
            call.phase = Phase::Ready(said);
        }
    }
}

fn answer(state: &mut State, at: usize) -> Option<()> {
    let call = state.callers[at].call.take()?;
    let Phase::Ready(said) = call.phase else {
        return None;
    };
    promises::note(state, &call, said);
    let held = &mut state.callers[at].held;
    match (call.ask, said) {
        (Ask::Begin(request), Said::Proceed { token, until, .. }) => {
            *held = Some(Held {
                key: call.key,
                request,
                token,
                until,
                is_running: true,
            });
        }
        (Ask::Complete(_) | Ask::Release(_), Said::Done { .. }) => *held = None,
        (Ask::Renew(_), Said::Renewed { until }) => {
            let held = held.as_mut()?;
            (held.until, held.is_running) = (until, true);
        }
        // The guard is given back, and its holder knows.
        (_, Said::Lost) => held.as_mut()?.is_running = false,
        _ => {}
    }
    Some(())
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        assert!(self.keys <= KEYS);
        vec![State::new(self.callers)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        for at in 0..state.callers.len() {
            // Of callers in the same state one is enough.
            if at == 0 || state.callers[at] != state.callers[at - 1] {
                self.actions_of(state, at, actions);
            }
        }
        let phases = state.callers.iter().filter_map(|caller| caller.call);
        if phases.map(|call| call.phase).any(is_decided) || state.decided != state.durable {
            actions.push(Action::Commit);
        }
        actions.extend((0..self.keys).filter_map(|key| {
            let row = &state.durable.rows[key];
            let is_settled = *row == state.decided.rows[key];
            (is_settled && row.is_over(state.now)).then_some(Action::Sweep { key })
        }));
        if state.now < self.horizon {
            actions.push(Action::Tick);
        }
        if state.crashes < self.crashes {
            for is_batch_kept in [false, true] {
                actions.extend([false, true].map(|is_clock_set_back| Action::Crash {
                    is_batch_kept,
                    is_clock_set_back,
                }));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        next.crashed = Crashed::Not;
        let state = &mut next;
        match action {
            Action::Begin {
                caller,
                key,
                request,
            } => calls(state, caller, key, Ask::Begin(request)),
            Action::Forget { caller, key } => calls(state, caller, key, Ask::Forget),
            Action::Complete { caller } => settles(state, caller, |held| {
                Ask::Complete(Answer {
                    token: held.token,
                    request: held.request,
                })
            })?,
            Action::Renew { caller } => settles(state, caller, |held| Ask::Renew(held.token))?,
            Action::Release { caller } => settles(state, caller, |held| Ask::Release(held.token))?,
            Action::Abandon { caller } => state.callers[caller].held = None,
            Action::Glance { caller } => self.glance(state, caller)?,
            Action::Decide { caller } => self.decide(state, caller)?,
            Action::Commit => commit(state),
            Action::Answer { caller } => answer(state, caller)?,
            Action::Sweep { key } => self.sweep(state, key),
            Action::Tick => state.now += 1,
            Action::Crash {
                is_batch_kept,
                is_clock_set_back,
            } => self.crash(state, is_batch_kept, is_clock_set_back),
        }
        next.tidy();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        promises::properties()
    }
}

fn is_decided(phase: Phase) -> bool {
    matches!(phase, Phase::Decided(_))
}
