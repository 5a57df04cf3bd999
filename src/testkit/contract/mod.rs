//! What a register promises, call by call.

mod ends;
mod ground;
mod news;
mod pages;
mod swaps;

pub(super) use ground::Ground;

use crate::store::register::Register;

type Run<R> = fn(&Ground<'_, R>);

macro_rules! scenarios {
    ($($part:ident: $($name:ident)*;)*) => {
        pub(super) fn scenarios<R: Register>() -> Vec<(&'static str, Run<R>)> {
            vec![$($((stringify!($name), |ground| ground.run($part::$name(ground))),)*)*]
        }
    };
}

scenarios! {
    swaps:
        what_was_never_written_is_not_there
        a_value_comes_back_as_it_was_written
        a_cell_that_is_there_is_not_made_again
        the_version_that_is_there_is_replaced
        another_version_than_the_expected_one_stays
        of_swaps_at_once_one_is_made
        ids_that_differ_in_one_bit_are_two_cells;
    ends:
        the_clock_is_the_servers_and_runs_forwards
        a_cell_that_has_ended_is_gone_or_as_it_was
        a_sweep_leaves_what_has_not_ended
        a_swap_replaces_the_end
        sweeps_at_once_come_to_an_end;
    pages:
        a_scan_has_each_cell_and_ends;
    news:
        what_is_announced_is_heard;
}
