//! What is found made is acknowledged only once it was written again, and what nobody has is given
//! back.

use super::*;

const TIMEOUT: Duration = Duration::from_millis(60);

/// A register that makes each change and never says so, as one does whose replicas don't have it.
fn mute(clock: &ManualClock) -> Scripted {
    Scripted {
        timeout: TIMEOUT,
        ..Scripted::new(clock)
    }
}

fn completion(token: u64) -> Command {
    Command::Complete {
        token,
        reply: Reply::new(201, "body"),
        retention: RETENTION,
    }
}

#[test]
fn a_completion_that_is_there_is_acknowledged_only_once_it_was_written_again() {
    let clock = ManualClock::new();
    let register = mute(&clock);
    let (node, other) = (
        Node::new(register.clone(), &clock),
        Node::new(register.register.clone(), &clock),
    );
    let token = node.granted("key").token;
    *register.always.lock() = Some(Fate::AnswerLost);
    for _ in 0..3 {
        let error = node.asked("key", completion(token)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.is_outcome_unknown() && error.is_transient());
        assert!(matches!(other.begin("key"), Verdict::Replay(_)));
    }
    *register.always.lock() = None;
    // A look, and the reply over itself.
    let trips = register.trips(|| assert_eq!(node.complete("key", token), Verdict::Done));
    assert_eq!(trips, 2);
}

#[test]
fn a_grant_and_a_renewal_that_are_found_made_are_written_over_themselves() {
    let clock = ManualClock::new();
    let register = Scripted::new(&clock);
    let node = Node::new(register.clone(), &clock);
    register.play(&[Fate::AnswerLost]);
    let mut grant = None;
    // Made, found so, and written again.
    assert_eq!(register.trips(|| grant = Some(node.granted("key"))), 3);
    let token = grant.unwrap().token;
    register.play(&[Fate::AnswerLost]);
    let renew = Command::Renew {
        token,
        lease: LEASE,
    };
    let renewed = |verdict| assert!(matches!(verdict, Verdict::Renewed { .. }), "{verdict:?}");
    assert_eq!(register.trips(|| renewed(node.ask("key", renew))), 3);
}

#[test]
fn a_guards_call_that_is_refused_for_a_while_is_made_and_a_begin_is_refused_at_once() {
    let clock = ManualClock::new();
    let register = Scripted::new(&clock);
    let node = Node::new(register.clone(), &clock);
    let token = node.granted("key").token;
    register.play(&[Fate::Refused; 4]);
    let error = node.asked("other", node.begin_command()).unwrap_err();
    assert!(error.is_transient() && !error.is_outcome_unknown());
    assert_eq!(node.complete("key", token), Verdict::Done);
    assert!(register.script.lock().is_empty());
}

#[test]
fn what_was_only_refused_is_known_not_to_be_made_when_the_time_is_up() {
    let clock = ManualClock::new();
    let register = mute(&clock);
    let node = Node::new(register.clone(), &clock);
    let token = node.granted("key").token;
    *register.always.lock() = Some(Fate::Refused);
    let error = node.asked("key", completion(token)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.is_transient() && !error.is_outcome_unknown(),
        "{error:?}"
    );
}

#[test]
fn a_begin_whose_answers_are_lost_for_a_while_leaves_its_key_to_the_next() {
    let clock = ManualClock::new();
    let register = mute(&clock);
    let (node, other) = (
        Node::new(register.clone(), &clock),
        Node::new(register.register.clone(), &clock),
    );
    for fate in [Fate::AnswerLost, Fate::RequestLost] {
        let name = format!("{fate:?}");
        *register.always.lock() = Some(fate);
        let error = node.asked(&name, node.begin_command()).unwrap_err();
        assert!(error.is_outcome_unknown(), "{error:?}");
        *register.always.lock() = None;
        // The node goes on asking by itself.
        assert_eq!(granted_soon(&other, &name).attempt, 1);
    }
}
