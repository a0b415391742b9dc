//! The inbox alone: order, bounds, and that nothing is lost at the end.

use super::*;
use crate::engine::control::{Asker, ControlError};

fn submit(inbox: &Inbox, id: u64) {
    let (events, _) = tokio::sync::mpsc::channel(1);
    let request = GenerateRequest {
        id,
        prompt: vec![1],
        sampling: crate::engine::request::SamplingParams::default(),
        eos: Vec::new(),
        max_tokens: 1,
        min_tokens: 0,
        bias: Vec::new(),
        prompt_logprobs: None,
        adapter: None,
        cache_salt: None,
        events: events.into(),
    };
    inbox.submit(request, None).unwrap();
}

#[test]
fn requests_and_their_cancels_keep_their_place_among_commands() {
    let inbox = Inbox::new(9, 9);
    let command = || {
        let (asker, reply) = Asker::pair();
        assert!(inbox.command(Command::CheckWeights(asker)).is_ok());
        reply
    };
    submit(&inbox, 1);
    let _first = command();
    submit(&inbox, 2);
    inbox.cancel(2);
    let _second = command();
    submit(&inbox, 3);
    inbox.cancel(1);
    let ids = |mail: &Mail| -> Vec<u64> { mail.submitted.iter().map(|s| s.request.id).collect() };
    let held = inbox.take(false, false, None);
    assert_eq!((ids(&held), held.cancelled), (vec![1], vec![1]));
    assert!(held.command.is_none());
    for (expected, cancelled) in [(vec![], vec![]), (vec![2], vec![2]), (vec![3], vec![])] {
        let mail = inbox.take(false, true, None);
        assert_eq!((ids(&mail), &mail.cancelled), (expected, &cancelled));
    }
    let _third = command();
    submit(&inbox, 4);
    inbox.drain();
    let last = inbox.take(false, false, None);
    assert_eq!(ids(&last), [4], "who ends waits for no command");
}

#[test]
fn commands_wait_in_order_and_within_bounds_and_none_is_lost_at_the_end() {
    let inbox = Inbox::new(1, 1);
    let ask = || {
        let (asker, reply) = Asker::pair();
        (inbox.command(Command::CheckWeights(asker)), reply)
    };
    let mut replies: Vec<_> = (0..COMMANDS_MAX)
        .map(|_| {
            let (queued, reply) = ask();
            assert!(queued.is_ok());
            reply
        })
        .collect();
    assert!(matches!(ask().0, Err(NotQueued::Full(_))));
    assert!(inbox.take(false, false, None).command.is_none());
    inbox
        .take(false, true, None)
        .command
        .unwrap()
        .refuse(ControlError::Draining);
    let first = replies.remove(0);
    assert_eq!(first.wait(), Err(ControlError::Draining));
    assert!(ask().0.is_ok(), "there is room again");
    let left = inbox.close();
    assert_eq!(left.len(), COMMANDS_MAX);
    drop(left);
    for reply in replies {
        assert_eq!(reply.wait(), Err(ControlError::Ended));
    }
    assert!(matches!(ask().0, Err(NotQueued::Closed(_))));
}
