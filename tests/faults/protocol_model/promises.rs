//! What has to hold in every state, and what has to happen in some.

use stateright::Property;

use super::Protocol;
use super::state::{Breach, Call, Crashed, Phase, State};
use onceward::protocol_model::{Ask, Changed, Kept, LEASE, RETENTION, Row, Said, Time};

/// Holds a decision against what callers have been told before.
pub(super) fn judge(state: &mut State, call: &Call, row: &Row, said: Said, changed: Changed) {
    let now = state.now;
    let told = state.told[call.key];
    if let Ask::Begin(request) = call.ask {
        if let Some((answer, until)) = told.answer
            && now < until
        {
            let is_kept = match said {
                Said::Replay { answer: found, .. } => found == answer,
                Said::Conflict => request != answer.request,
                _ => false,
            };
            if !is_kept {
                state.breaks(Breach::LostAnswer);
            }
        }
        if let Said::Replay { answer, .. } = said
            && answer.request != request
        {
            state.breaks(Breach::FalseReplay);
        }
        if let Said::Proceed { token, until, .. } = said {
            let is_held = told.lease.is_some_and(|(_, until)| now < until);
            if is_held || token <= state.highest_told {
                state.breaks(Breach::DoubleGrant);
            }
            if until != now + LEASE {
                state.breaks(Breach::StuckKey);
            }
        }
    }
    if let Some(token) = call.ask.token() {
        let is_its_own = row.kept.is_some_and(|kept| kept.token() == token);
        let is_accepted = matches!(said, Said::Done { .. } | Said::Renewed { .. });
        if !is_its_own && (changed.is_some() || is_accepted) {
            state.breaks(Breach::StaleWrite);
        }
    }
    if let (Ask::Release(_), Some(Row { kept: None, .. })) = (call.ask, changed)
        && matches!(row.kept, Some(Kept::InFlight { attempt, .. }) if attempt > 1)
    {
        state.breaks(Breach::LostCount);
    }
}

/// Remembers what a caller is told now.
pub(super) fn note(state: &mut State, call: &Call, said: Said) {
    let told = &mut state.told[call.key];
    let holder = told.lease.map_or(0, |(token, _)| token);
    match (call.ask, said) {
        (Ask::Begin(_), Said::Proceed { token, until, .. }) => {
            state.highest_told = state.highest_told.max(token);
            if token > holder {
                told.lease = Some((token, until));
            }
        }
        (Ask::Renew(token), Said::Renewed { until }) if token >= holder => {
            told.lease = Some((token, until));
        }
        (Ask::Begin(_), Said::Replay { answer, ends })
        | (Ask::Complete(answer), Said::Done { ends }) => {
            let known = told.answer.map_or(0, |(_, until)| until);
            if ends > known {
                told.answer = Some((answer, ends));
            }
        }
        _ => {}
    }
}

/// What callers are about to be told of the key's answer is no promise any more.
pub(super) fn void(state: &mut State, key: usize) {
    let calls = state
        .callers
        .iter_mut()
        .filter_map(|caller| caller.call.as_mut());
    for call in calls.filter(|call| call.key == key) {
        if let Phase::Decided(said) | Phase::Ready(said) = &mut call.phase
            && let Said::Replay { ends, .. } | Said::Done { ends } = said
        {
            *ends = 0;
        }
    }
}

/// What a begin of any request has to find under each key, by the model's own times.
fn expected(row: &Row, request: u8, now: Time, token: u64) -> Said {
    let granted = |attempt| Said::Proceed {
        token,
        attempt,
        until: now + LEASE,
    };
    match row.kept {
        None => granted(1),
        Some(Kept::Completed { .. }) if now >= row.ends => granted(1),
        Some(Kept::InFlight { .. }) if now >= row.ends + RETENTION => granted(1),
        Some(Kept::InFlight { request: first, .. } | Kept::Completed { request: first, .. })
            if first != request =>
        {
            Said::Conflict
        }
        Some(Kept::Completed { answer, .. }) => Said::Replay {
            answer,
            ends: row.ends,
        },
        Some(Kept::InFlight { .. }) if now < row.ends => Said::InFlight,
        Some(Kept::InFlight { attempt, .. }) => granted(attempt + 1),
    }
}

/// Begins each key with each request, as if somebody did so now; whether that goes as expected.
fn begins_go_well(model: &Protocol, state: &State, is_meant: fn(Kept) -> bool) -> bool {
    let token = state.decided.last_token + 1;
    let rows = state.decided.rows[..model.keys].iter();
    let mut meant = rows.filter(|row| row.kept.is_some_and(is_meant));
    meant.all(|row| {
        (0..model.requests).all(|request| {
            let (said, _) = row.decide(Ask::Begin(request), state.now, token);
            said == expected(row, request, state.now, token)
        })
    })
}

fn no_double_grant(_: &Protocol, state: &State) -> bool {
    let mut guards = state
        .callers
        .iter()
        .filter_map(|caller| caller.held)
        .filter(|held| held.is_running && state.now < held.until)
        .map(|held| held.key)
        .collect::<Vec<_>>();
    let running = guards.len();
    guards.sort_unstable();
    guards.dedup();
    guards.len() == running && state.broken != Some(Breach::DoubleGrant)
}

fn no_lost_answer(model: &Protocol, state: &State) -> bool {
    let is_completed = |kept| matches!(kept, Kept::Completed { .. });
    state.broken != Some(Breach::LostAnswer) && begins_go_well(model, state, is_completed)
}

fn no_false_replay(_: &Protocol, state: &State) -> bool {
    state.broken != Some(Breach::FalseReplay)
}

fn no_stale_write(_: &Protocol, state: &State) -> bool {
    state.broken != Some(Breach::StaleWrite)
}

fn no_lost_count(_: &Protocol, state: &State) -> bool {
    state.broken != Some(Breach::LostCount)
}

fn no_stuck_key(model: &Protocol, state: &State) -> bool {
    let is_in_flight = |kept| matches!(kept, Kept::InFlight { .. });
    state.broken != Some(Breach::StuckKey) && begins_go_well(model, state, is_in_flight)
}

fn is_said(state: &State, is_meant: impl Fn(Ask, Said) -> bool) -> bool {
    state.said().any(|(_, call, said)| is_meant(call.ask, said))
}

fn takes_over(_: &Protocol, state: &State) -> bool {
    is_said(
        state,
        |_, said| matches!(said, Said::Proceed { attempt, .. } if attempt > 1),
    )
}

fn completes_late(_: &Protocol, state: &State) -> bool {
    state.said().any(|(caller, call, said)| {
        let is_late = caller.held.is_some_and(|held| held.until <= state.now);
        is_late && matches!((call.ask, said), (Ask::Complete(_), Said::Done { .. }))
    })
}

fn refuses_a_late_completion(_: &Protocol, state: &State) -> bool {
    is_said(state, |ask, said| {
        matches!((ask, said), (Ask::Complete(_), Said::Lost))
    })
}

fn replays(_: &Protocol, state: &State) -> bool {
    is_said(state, |_, said| matches!(said, Said::Replay { .. }))
}

fn conflicts(model: &Protocol, state: &State) -> bool {
    model.requests == 1 || is_said(state, |_, said| said == Said::Conflict)
}

fn forgets_an_attempt(model: &Protocol, state: &State) -> bool {
    let is_attempt = |row: &Row| matches!(row.kept, Some(Kept::InFlight { .. }));
    let mut rows = state.durable.rows.iter();
    let is_too_short = model.horizon < LEASE + RETENTION;
    is_too_short || rows.any(|row| is_attempt(row) && row.is_over(state.now))
}

fn loses_a_batch(_: &Protocol, state: &State) -> bool {
    state.crashed == Crashed::BatchLost
}

fn keeps_a_batch(_: &Protocol, state: &State) -> bool {
    state.crashed == Crashed::BatchKept
}

pub(super) fn properties() -> Vec<Property<Protocol>> {
    vec![
        Property::always("1: no double grant", no_double_grant),
        Property::always("2: no lost answer", no_lost_answer),
        Property::always("3: no false replay", no_false_replay),
        Property::always("4: no stale write", no_stale_write),
        Property::always("5: no stuck key", no_stuck_key),
        Property::always("a release keeps the count of attempts", no_lost_count),
        Property::sometimes("an attempt takes over", takes_over),
        Property::sometimes("a late guard completes", completes_late),
        Property::sometimes("a late guard is refused", refuses_a_late_completion),
        Property::sometimes("an answer is replayed", replays),
        Property::sometimes("another request conflicts", conflicts),
        Property::sometimes("an abandoned attempt is forgotten", forgets_an_attempt),
        Property::sometimes("a crash drops a batch", loses_a_batch),
        Property::sometimes(
            "a crash leaves a batch that nobody was told of",
            keeps_a_batch,
        ),
    ]
}
