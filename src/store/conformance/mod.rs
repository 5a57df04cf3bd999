//! One suite for every store: each row of the decision table, through the store's own doors.

// A scenario fails by panicking.
#![allow(clippy::unwrap_used)]

mod begins;
mod bench;
mod guards;
mod operations;
#[cfg(test)]
pub(super) mod tests;

pub(crate) use bench::{Bench, Margins};

use crate::outcome::OnAbandon;

/// Gives a store for a scenario, in which none of its keys is.
pub(crate) type Make<'a> = dyn Fn(OnAbandon) -> Bench + 'a;

/// What has to be so in every store.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Make<'_>),
}

/// Gives all scenarios to a macro, so that the table and the tests have the same.
macro_rules! with_scenarios {
    ($then:ident $($with:tt)*) => {
        $then! {
            ($($with)*)
            begins:
                an_absent_key_is_granted_as_attempt_1
                a_key_past_its_retention_is_granted_as_attempt_1
                another_fingerprint_conflicts_whatever_the_state
                a_running_attempt_is_in_flight_until_its_lease_ends
                a_lapsed_attempt_is_taken_over_with_a_higher_token
                under_hold_a_lapsed_attempt_stays_in_flight_and_is_marked
                a_completed_key_replays_until_it_expires
                an_attempt_abandoned_for_a_retention_is_absent
                an_attempt_whose_retention_is_shorter_than_its_lease_is_remembered_after_its_lease
                tokens_rise_and_are_never_used_again;
            guards:
                a_lapsed_attempt_that_nobody_took_over_can_complete
                a_lapsed_attempt_that_nobody_took_over_can_be_released
                a_repeated_completion_is_done_and_another_reply_is_lost
                a_renewal_starts_the_lease_over_lapsed_or_not
                a_first_attempt_that_is_released_frees_the_key
                a_later_attempt_that_is_released_keeps_the_count
                a_guard_that_was_taken_over_can_do_nothing
                a_guard_whose_record_is_gone_can_do_nothing
                an_attempt_that_is_renewed_past_the_retention_is_remembered_after_its_lease
                nothing_can_be_done_with_an_answer_that_has_expired;
            operations:
                forget_frees_what_is_completed_or_lapsed_and_refuses_what_runs
                resolve_settles_what_is_lapsed_and_nothing_else
                a_condition_that_does_not_hold_changes_nothing
                a_sweep_removes_what_is_over_and_nothing_else;
        }
    };
}
#[cfg(test)]
use with_scenarios;

macro_rules! table {
    (() $($room:ident: $($name:ident)*;)*) => {
        pub(crate) const SCENARIOS: &[Scenario] = &[
            $($(Scenario { name: stringify!($name), run: $room::$name },)*)*
        ];
    };
}

with_scenarios!(table);
