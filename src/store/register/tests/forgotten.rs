//! A server that has forgotten: the first cell is gone, or was made anew.

use super::*;
use crate::store::register::first_cell::FIRST;

/// Ends a cell, so that it is gone.
fn lose(register: &Local, id: RecordId) {
    futures::executor::block_on(async {
        let found = register.load(id).await.unwrap().value.unwrap();
        let version = Some(found.version);
        register.swap(id, version, found, 1).await.unwrap();
        register.sweep().await.unwrap();
        assert!(register.load(id).await.unwrap().value.is_none());
    });
}

fn is_held_back(node: &Node, name: &str) -> bool {
    match node.asked(name, node.begin_command()) {
        Ok(Verdict::Proceed(_)) => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("first cell"), "{error}");
            true
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nodes_agree_on_every_key_though_the_first_cell_is_lost_between_them() {
    let clock = ManualClock::new();
    let register = Local::new(clock.clone());
    let first = Node::new(register.clone(), &clock);
    let token = first.granted("key").token;
    first.complete("key", token);
    lose(&register, FIRST);
    let later = Node::new(register, &clock);
    assert!(matches!(later.begin("key"), Verdict::Replay(_)));
}

#[test]
fn whoever_finds_the_first_cell_gone_puts_it_back_and_grants_nothing_for_a_lease() {
    let clock = ManualClock::new();
    let register = Local::new(clock.clone());
    let (node, other) = (
        Node::new(register.clone(), &clock),
        Node::new(register.clone(), &clock),
    );
    let running = node.granted("running").token;
    let kept = node.granted("kept").token;
    node.complete("kept", kept);
    lose(&register, FIRST);
    node.0.sweep().unwrap();
    assert!(is_held_back(&node, "new"));
    assert_eq!(node.0.figures().register_losses, 1);
    assert_eq!(
        node.0.readiness().unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    // What is known is answered, and what was granted can be completed.
    assert!(matches!(node.begin("kept"), Verdict::Replay(_)));
    assert!(matches!(node.begin("running"), Verdict::InFlight(_)));
    assert_eq!(node.complete("running", running), Verdict::Done);
    // All others do the same, whether they were there or not.
    other.0.sweep().unwrap();
    let later = Node::new(register, &clock);
    clock.advance(JUST_UNDER_LEASE);
    assert!(
        [&node, &other, &later]
            .iter()
            .all(|node| is_held_back(node, "new"))
    );
    clock.advance(Duration::from_millis(2));
    for (number, node) in [&node, &other, &later].into_iter().enumerate() {
        assert_eq!(node.granted(&format!("new {number}")).attempt, 1);
        node.0.readiness().unwrap();
        node.0.sweep().unwrap();
        assert!(node.0.figures().register_losses <= 1);
    }
}

#[test]
fn a_first_cell_that_a_new_node_has_made_anew_is_noticed_by_the_others_which_tell_that_node() {
    let clock = ManualClock::new();
    let register = Local::new(clock.clone());
    let old = Node::new(register.clone(), &clock);
    lose(&register, FIRST);
    // It can't know of the others.
    let new = Node::new(register, &clock);
    new.granted("granted");
    old.0.sweep().unwrap();
    assert!(is_held_back(&old, "new"));
    assert_eq!(old.0.figures().register_losses, 1);
    new.0.sweep().unwrap();
    assert!(is_held_back(&new, "new"));
    clock.advance(LEASE + Duration::from_millis(1));
    new.granted("new");
}

#[test]
fn the_longest_lease_that_any_node_has_used_is_waited_for() {
    let clock = ManualClock::new();
    let register = Local::new(clock.clone());
    let (node, other) = (
        Node::new(register.clone(), &clock),
        Node::new(register.clone(), &clock),
    );
    let long = Command::Begin {
        takes_over: None,
        fingerprint: node.0.secret().seal(&Fingerprint::of("request")),
        lease: 3 * LEASE,
        retention: RETENTION,
    };
    assert!(matches!(node.ask("long", long), Verdict::Proceed(_)));
    other.0.sweep().unwrap();
    lose(&register, FIRST);
    other.0.sweep().unwrap();
    clock.advance(2 * LEASE + JUST_UNDER_LEASE);
    assert!(is_held_back(&other, "new"));
    clock.advance(Duration::from_millis(2));
    other.granted("new");
}

#[test]
fn nothing_is_handed_out_over_a_new_connection_before_the_first_cell_was_seen_there() {
    let clock = ManualClock::new();
    let register = Scripted::new(&clock);
    let node = Node::new(register.clone(), &clock);
    register.connections.fetch_add(1, Ordering::SeqCst);
    assert_eq!(register.trips(|| _ = node.granted("looks")), 2);
    assert_eq!(register.trips(|| _ = node.granted("knows")), 1);
    lose(&register.register, FIRST);
    register.connections.fetch_add(1, Ordering::SeqCst);
    assert!(is_held_back(&node, "new"));
    clock.advance(LEASE + Duration::from_millis(1));
    // The grant that was made and not handed out is gone, too.
    assert_eq!(granted_soon(&node, "new").attempt, 1);
}

#[test]
fn a_grant_that_is_under_way_when_the_loss_is_found_out_is_not_handed_out() {
    let clock = ManualClock::new();
    let register = Scripted::new(&clock);
    let node = Node::new(register.clone(), &clock);
    register.play(&[Fate::Held]);
    thread::scope(|scope| {
        let begin = scope.spawn(|| is_held_back(&node, "new"));
        while !register.script.lock().is_empty() {
            thread::yield_now();
        }
        lose(&register.register, FIRST);
        node.0.sweep().unwrap();
        register.goes_on.notify_one();
        assert!(begin.join().unwrap(), "it was handed out");
    });
    clock.advance(LEASE + Duration::from_millis(1));
    assert_eq!(granted_soon(&node, "new").attempt, 1);
}

#[test]
fn a_node_that_opens_where_there_are_cells_and_no_first_one_waits() {
    let clock = ManualClock::new();
    let register = Local::new(clock.clone());
    Node::new(register.clone(), &clock).granted("running");
    lose(&register, FIRST);
    let later = Node::new(register, &clock);
    assert!(is_held_back(&later, "new"));
    clock.advance(LEASE + Duration::from_millis(1));
    later.granted("new");
}

#[test]
fn a_register_of_an_older_format_is_refused() {
    #[derive(serde::Serialize)]
    struct Format1 {
        format: u32,
        secret_check: [u8; 32],
        material: Option<[u8; 32]>,
    }
    let clock = ManualClock::new();
    let register = Local::new(clock.clone());
    let first = Format1 {
        format: 1,
        secret_check: [7; 32],
        material: Some([9; 32]),
    };
    let value = Value {
        version: Version::from_bits(5),
        bytes: crate::codec::encode_sealed(&first).unwrap().into(),
    };
    let swapped = register.swap(FIRST, None, value, u64::MAX);
    futures::executor::block_on(swapped).unwrap();
    let refused = connect(register, None, Arc::new(clock), LEASE).map(drop);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::UnsupportedFormat);
}
