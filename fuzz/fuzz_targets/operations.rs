//! Sequences of operations on the embedded engine and on the reference model: the same outcomes.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use onceward::{Engine, Fingerprint, Guard, Key, ManualClock, Outcome, Reply};

#[derive(Debug, arbitrary::Arbitrary)]
enum Step {
    Begin { key: u8, request: bool },
    Complete { guard: u8, body: u8 },
    Renew { guard: u8 },
    Release { guard: u8 },
    Forget { key: u8 },
    Pass { seconds: u16 },
    Sweep,
    Reopen,
}

fn key(number: u8) -> Key {
    Key::new("fuzz", format!("{}", number % 3)).expect("a valid key")
}

/// What a begin found, in a form that can be compared, and the guard if there is one.
fn begin(engine: &Engine, number: u8, request: bool) -> (String, Option<Guard>) {
    let fingerprint = Fingerprint::of([u8::from(request)]);
    match engine
        .begin(&key(number), &fingerprint)
        .expect("an outcome")
    {
        Outcome::Proceed(guard) => (format!("attempt {}", guard.attempt()), Some(guard)),
        other => (format!("{other:?}"), None),
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = ManualClock::new();
    let builder = Engine::builder()
        .clock(clock.clone())
        .lease(Duration::from_secs(100))
        .retention(Duration::from_secs(10_000))
        .segment_entries(3);
    let open = || {
        builder
            .clone()
            .open(folder.path().join("engine"))
            .expect("an engine")
    };
    let model = builder.clone().open_in_memory().expect("a model");
    let mut engine = open();
    let mut guards: Vec<(Guard, Guard)> = Vec::new();
    for step in steps.into_iter().take(64) {
        let mut guard = |at: u8| {
            (!guards.is_empty()).then(|| guards.swap_remove(usize::from(at) % guards.len()))
        };
        match step {
            Step::Begin { key, request } => {
                let (tested, modelled) =
                    (begin(&engine, key, request), begin(&model, key, request));
                assert_eq!(tested.0, modelled.0);
                guards.extend(tested.1.zip(modelled.1));
            }
            Step::Complete { guard: at, body } => {
                if let Some((tested, modelled)) = guard(at) {
                    let reply = Reply::new(200, vec![body; 3]);
                    let tested = tested.complete(reply.clone()).map_err(|error| error.kind());
                    assert_eq!(
                        tested,
                        modelled.complete(reply).map_err(|error| error.kind())
                    );
                }
            }
            Step::Renew { guard: at } => {
                if let Some((mut tested, mut modelled)) = guard(at) {
                    let result = tested.renew().map_err(|error| error.kind());
                    assert_eq!(result, modelled.renew().map_err(|error| error.kind()));
                    guards.push((tested, modelled));
                }
            }
            Step::Release { guard: at } => {
                if let Some((tested, modelled)) = guard(at) {
                    let tested = tested.release().map_err(|error| error.kind());
                    assert_eq!(tested, modelled.release().map_err(|error| error.kind()));
                }
            }
            Step::Forget { key: number } => {
                let tested = engine.forget(&key(number)).map_err(|error| error.kind());
                let modelled = model.forget(&key(number)).map_err(|error| error.kind());
                assert_eq!(tested, modelled);
            }
            Step::Pass { seconds } => clock.advance(Duration::from_secs(seconds.into())),
            Step::Sweep => {
                engine.sweep().expect("a sweep");
                model.sweep().expect("a sweep");
            }
            Step::Reopen => {
                guards.clear();
                engine.close().expect("a clean close");
                engine = open();
            }
        }
    }
});
