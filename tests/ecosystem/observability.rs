//! What those see who watch an engine.

use support::engine::Bench;

mod metrics {
    use std::collections::BTreeMap;

    use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
    use onceward::{Engine, Fingerprint, Outcome, Reply};

    use super::Bench;
    use support::engine::{LEASE, completed, granted, in_flight, key, replayed, request, sealed};

    /// An engine in tiny segments whose metrics go to a recorder of the test's own.
    fn watched(bench: &Bench, name: &str) -> (Engine, Snapshotter) {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let builder = bench.builder().segment_entries(4).name(name);
        let engine = metrics::with_local_recorder(&recorder, || builder.open(bench.path()));
        (engine.unwrap(), snapshotter)
    }

    /// Everything that was recorded: names with their labels, and how much.
    fn recorded(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
        let snapshot = snapshotter.snapshot().into_vec().into_iter();
        snapshot
            .map(|(key, _, _, value)| {
                let labels = key.key().labels();
                let labels: Vec<_> = labels
                    .map(|label| format!("{}={}", label.key(), label.value()))
                    .collect();
                let value = match value {
                    #[allow(clippy::cast_precision_loss)]
                    DebugValue::Counter(count) => count as f64,
                    DebugValue::Gauge(value) => value.into_inner(),
                    #[allow(clippy::cast_precision_loss)]
                    DebugValue::Histogram(values) => values.len() as f64,
                };
                (format!("{} {}", key.key().name(), labels.join(" ")), value)
            })
            .collect()
    }

    #[test]
    fn every_metric_counts_what_its_name_says() {
        let bench = Bench::new();
        let (engine, snapshotter) = watched(&bench, "payments");
        for number in 0..6 {
            completed(&engine, &number.to_string(), "body");
        }
        replayed(&engine, "0");
        let other = engine.begin(&key("0"), &Fingerprint::of("other")).unwrap();
        assert!(matches!(other, Outcome::Conflict(_)));
        drop(granted(&engine, "abandoned"));
        in_flight(&engine, "abandoned");
        bench.clock.advance(LEASE);
        granted(&engine, "abandoned").release().unwrap();
        // A sweep passes the writer, which rolls whatever is full, unless the sealer is behind. The
        // gauges are of the last sweep.
        for _ in 0..2 {
            sealed(&engine);
            engine.sweep().unwrap();
        }

        let recorded = recorded(&snapshotter);
        let of = |name: &str| recorded[&format!("onceward_{name} engine=payments")];
        let begins = |verdict: &str| {
            recorded[&format!("onceward_begins_total engine=payments verdict={verdict}")]
        };
        let expect =
            |value: f64, expected: f64| assert!((value - expected).abs() < 0.1, "{recorded:?}");
        expect(begins("proceed"), 8.0);
        expect(begins("replay"), 1.0);
        expect(begins("conflict"), 1.0);
        expect(begins("in_flight"), 1.0);
        expect(begins("error"), 0.0);
        expect(of("takeovers_total"), 1.0);
        expect(of("completions_total"), 6.0);
        expect(of("releases_total"), 1.0);
        // A conflict looks twice: once whether the request is the same, once in what it differs.
        expect(of("replay_cache_hits_total"), 3.0);
        expect(of("sweeps_total"), 2.0);
        expect(of("live_keys"), 7.0);
        expect(of("unsealed_segments"), 1.0);
        expect(of("waiters"), 0.0);
        assert!(of("segments") > 2.0 && of("disk_bytes") > 10_000.0);
        assert!(of("commit_seconds") > 10.0 && of("commit_entries") > 10.0);
        assert!(of("seal_seconds") > 1.0);
    }

    #[test]
    fn no_label_names_a_scope_or_a_key() {
        let bench = Bench::new();
        let (engine, snapshotter) = watched(&bench, "default");
        let secret = onceward::Key::new("a tenant's name", "a key's text").unwrap();
        let Outcome::Proceed(guard) = engine.begin(&secret, &request()).unwrap() else {
            panic!("a fresh key was not granted");
        };
        guard.complete(Reply::new(200, "a reply's body")).unwrap();
        let shown = format!("{:?}", recorded(&snapshotter));
        for secret in ["tenant", "text", "body"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn callers_that_wait_are_counted_while_they_wait() {
        let bench = Bench::new();
        let (engine, snapshotter) = watched(&bench, "default");
        let guard = granted(&engine, "key");
        std::thread::scope(|scope| {
            let (engine, patience) = (&engine, LEASE / 2);
            scope.spawn(move || {
                engine
                    .begin_or_wait(&key("key"), &request(), patience)
                    .unwrap()
            });
            support::engine::eventually(|| engine.stats().waiters == 1);
            support::engine::eventually(|| {
                recorded(&snapshotter)["onceward_waiters engine=default"] > 0.5
            });
            guard.complete(Reply::new(200, "")).unwrap();
        });
        assert!(recorded(&snapshotter)["onceward_waiters engine=default"] < 0.5);
    }
}

mod spans {
    use std::collections::BTreeMap;
    use std::fmt::Debug;
    use std::sync::{Arc, Mutex};

    use onceward::{Fingerprint, Outcome, Reply};
    use tracing::field::{Field, Visit};
    use tracing::span;
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::Bench;
    use support::engine::{granted, in_child, in_flight, key, replayed};

    /// Keeps the names of all spans with their fields, in the order in which they began.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Span>>>);

    type Span = (u64, &'static str, Named);

    type Named = BTreeMap<&'static str, String>;

    struct Fields<'a>(&'a mut Named);

    impl Visit for Fields<'_> {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            self.0.insert(field.name(), format!("{value:?}"));
        }
    }

    impl<S: tracing::Subscriber> Layer<S> for Kept {
        fn on_new_span(&self, span: &span::Attributes<'_>, id: &span::Id, _: Context<'_, S>) {
            let mut fields = Named::new();
            span.record(&mut Fields(&mut fields));
            let name = span.metadata().name();
            self.0.lock().unwrap().push((id.into_u64(), name, fields));
        }

        fn on_record(&self, id: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
            let mut spans = self.0.lock().unwrap();
            let newest = spans
                .iter_mut()
                .rfind(|(number, ..)| *number == id.into_u64());
            values.record(&mut Fields(&mut newest.unwrap().2));
        }
    }

    /// In a process of its own: a call site that another test's thread registers while the subscriber comes
    /// may stay off for ever.
    #[test]
    fn begin_and_complete_are_spans_that_say_how_they_ended_and_nothing_of_the_request() {
        let test = "observability::spans::a_process_whose_spans_are_kept";
        let said = in_child(test, std::path::Path::new("unused"));
        assert!(said.contains("test result: ok. 1 passed"), "{said}");
    }

    #[test]
    #[ignore = "the child process of the test above"]
    fn a_process_whose_spans_are_kept() {
        let bench = Bench::new();
        let engine = bench.open();
        let kept = Kept::default();
        let subscriber = tracing_subscriber::registry().with(kept.clone());
        tracing::subscriber::with_default(subscriber, || {
            let guard = granted(&engine, "key");
            in_flight(&engine, "key");
            guard.complete(Reply::new(200, "body")).unwrap();
            replayed(&engine, "key");
            let other = engine.begin(&key("key"), &Fingerprint::of("other"));
            assert!(matches!(other.unwrap(), Outcome::Conflict(_)));
        });
        let spans: Vec<String> = kept
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|(_, name, fields)| format!("{name} {fields:?}"))
            .collect();
        assert_eq!(
            spans,
            [
                r#"begin {"attempt": "1", "verdict": "\"proceed\""}"#,
                r#"begin {"verdict": "\"in_flight\""}"#,
                r#"complete {"attempt": "1", "verdict": "\"completed\""}"#,
                r#"begin {"verdict": "\"replay\""}"#,
                r#"begin {"verdict": "\"conflict\""}"#,
            ]
        );
    }
}
