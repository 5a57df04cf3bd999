//! The decision table on a register: the scenarios that every store has to pass.

use std::sync::Arc;

use super::{Shifted, random};
use crate::outcome::OnAbandon;
use crate::store::conformance::{Bench, Margins, SCENARIOS, Scenario};
use crate::store::register::Register;

pub(super) fn scenarios() -> &'static [Scenario] {
    SCENARIOS
}

pub(super) fn run<R: Register>(scenario: &Scenario, make: &(dyn Fn() -> R + Sync)) {
    (scenario.run)(&|on_abandon| bench(make(), on_abandon));
}

/// One node, with time and a scope of its own.
fn bench(register: impl Register, on_abandon: OnAbandon) -> Bench {
    let shifted = Shifted::new(register);
    let time = shifted.beside(());
    Bench::on_register(
        shifted,
        Arc::new(time.clock()),
        on_abandon,
        &random::scope(),
        move |by| time.advance(by),
        Margins::RUNNING,
    )
}
