//! The life of requests and of the engine itself: refusals, cancels, slow readers, drain, and
//! what the ledger says meanwhile.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::time::Duration;

use harness::{Run, ask, ask_ids, eventually, halves, request, start, tiny, wait_for};
use plimsoll_planner::{Account, Bytes};
use plimsoll_sidecar::engine::control::{Commands, ControlError};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::request::{
    FinishReason, GenerateRequest, Refused, SamplingParams, TokenEvent,
};

#[test]
fn bad_requests_are_refused_by_name_and_leave_nothing_behind() {
    let model = tiny();
    let run = Run {
        max_model_len: 64,
        ..Run::whole(&model.shape)
    };
    let handle = start(&model, &run);
    let submit = |prompt: &[u32]| handle.submit(request(1, prompt, 5).0).unwrap_err();
    assert_eq!(submit(&[]), Refused::EmptyPrompt);
    assert_eq!(
        submit(&[1; 64]),
        Refused::TooLong {
            prompt: 64,
            limit: 64
        }
    );
    let out_of_range = Refused::TokenOutOfRange {
        index: 2,
        id: 515,
        vocabulary: 515,
    };
    assert_eq!(submit(&[1, 2, 515]), out_of_range);
    // The last possible prompt has room for one token.
    let answered = ask(&handle, 1, &[1; 63], 5).wait();
    assert_eq!(answered.ids.len(), 1);
    assert_eq!(answered.finished.unwrap().reason, FinishReason::Length);
    assert_eq!(handle.stats().running, 0);
}

#[test]
fn a_full_queue_refuses_with_a_time_to_come_back() {
    let model = tiny();
    let run = Run {
        max_num_seqs: 1,
        max_waiting: 2,
        ..Run::whole(&model.shape)
    };
    let handle = start(&model, &run);
    let (first, _events) = request(0, &[5; 8], 400);
    handle.submit(first).unwrap();
    eventually("the first turn", || handle.stats().running == 1);
    let kept: Vec<_> = (1..3)
        .map(|id| ask_ids(&handle, id, &[5; 8], 400))
        .collect();
    // Two turns of a second each: nothing has finished yet, so a second is the guess.
    let retry_after = Duration::from_secs(2);
    let full = Refused::QueueFull {
        waiting: 2,
        limit: 2,
        retry_after,
    };
    assert_eq!(handle.submit(request(3, &[5; 8], 4).0), Err(full));
    (0..3).for_each(|id| handle.cancel(id));
    for answer in kept {
        assert_eq!(answer.wait().finished.unwrap().reason, FinishReason::Abort);
    }
    eventually("an empty engine", || {
        handle.stats().running + handle.stats().waiting == 0
    });
    assert_eq!(
        ask_ids(&handle, 1, &[5; 8], 3).wait().ids.len(),
        3,
        "ids are free again"
    );
}

#[test]
fn a_cancel_frees_blocks_at_once_and_unknown_ids_are_ignored() {
    let model = tiny();
    let run = Run {
        prefix_cache: false,
        ..Run::whole(&model.shape)
    };
    let handle = start(&model, &run);
    let answer = ask_ids(&handle, 7, &[3; 100], 300);
    // 7 of 200. (The ledger reads /proc beside: on a busy machine all 300 tokens pass meanwhile.)
    eventually("blocks in use", || handle.stats().kv_usage >= 0.035);
    assert_eq!(
        handle.submit(request(7, &[1], 1).0),
        Err(Refused::DuplicateId { id: 7 })
    );
    handle.cancel(1234);
    handle.cancel(7);
    handle.cancel(7);
    let finished = answer.wait().finished.unwrap();
    assert_eq!(finished.reason, FinishReason::Abort);
    assert_eq!(finished.prompt_tokens, 100);
    assert_eq!(handle.memory().kv.blocks_used, 0);
    assert_eq!(handle.stats().finished_abort, 1);
}

#[test]
fn readers_that_leave_or_do_not_read_stop_nobody() {
    let model = tiny();
    let handle = start(&model, &Run::whole(&model.shape));
    let (gone, events) = request(1, &[3; 10], 400);
    drop(events);
    let (mut slow, _) = request(2, &[3; 10], 400);
    let (events, mut slow_events) = tokio::sync::mpsc::channel(4);
    slow.events = events.into();
    handle.submit(gone).unwrap();
    handle.submit(slow).unwrap();
    let other = ask_ids(&handle, 3, &[4; 10], 100).wait();
    assert_eq!(other.finished.unwrap().reason, FinishReason::Length);
    assert_eq!(handle.stats().finished_abort, 2);
    let mut seen = 0;
    while let Some(event) = slow_events.blocking_recv() {
        assert!(matches!(event, TokenEvent::Token { .. }), "{event:?}");
        seen += 1;
    }
    assert_eq!(
        seen, 4,
        "the slow reader sees what its channel held, then the end"
    );
}

#[test]
fn whoever_has_an_answer_reads_figures_that_know_it() {
    let model = tiny();
    let handle = start(&model, &Run::whole(&model.shape));
    for round in 1..=200 {
        let (request, mut events) = request(round, &[3; 10], 2);
        handle.submit(request).unwrap();
        // Each event is read while the engine goes on: nothing orders the two but the engine.
        let first = events.blocking_recv();
        assert!(matches!(first, Some(TokenEvent::Token { .. })), "{first:?}");
        let told = handle.stats().generation_tokens;
        assert!(told > 2 * (round - 1), "round {round}: {told} tokens");
        while events.blocking_recv().is_some() {}
        let stats = handle.stats();
        assert_eq!(
            (
                stats.running,
                stats.finished_length,
                stats.generation_tokens
            ),
            (0, round, 2 * round)
        );
        assert_eq!(handle.memory().kv.blocks_used, 0, "round {round}");
    }
}

#[test]
fn drain_ends_what_runs_and_takes_nothing_new() {
    let model = tiny();
    let handle = start(&model, &Run::whole(&model.shape));
    let answer = ask_ids(&handle, 1, &[3; 10], 50);
    handle.drain();
    wait_for(&handle, |state| *state == EngineState::Drained);
    assert_eq!(answer.wait().ids.len(), 50);
    assert_eq!(handle.submit(request(2, &[1], 1).0), Err(Refused::Draining));
}

#[test]
fn an_end_of_sequence_id_is_told_and_ends_the_request() {
    let model = tiny();
    let handle = start(&model, &Run::whole(&model.shape));
    let ids = ask_ids(&handle, 1, &[3, 4, 5], 40).wait().ids;
    let (mut stopping, mut events) = request(2, &[3, 4, 5], 40);
    stopping.eos = vec![ids[9]];
    handle.submit(stopping).unwrap();
    let first = ids.iter().position(|id| *id == ids[9]).unwrap();
    let mut got = Vec::new();
    let finished = loop {
        match events.blocking_recv().unwrap() {
            TokenEvent::Token { id, .. } => got.push(id),
            TokenEvent::Prompt(_) => {}
            TokenEvent::Finished(finished) => break finished,
        }
    };
    assert_eq!(
        (got, finished.reason),
        (ids[..=first].to_vec(), FinishReason::Stop)
    );
    let timings = finished.timings;
    assert_eq!(timings.first_token, Some(timings.queue + timings.prefill));
    assert!(timings.total >= timings.queue + timings.prefill + timings.decode);
}

/// 24 sampled tokens with their log-probabilities.
fn sampled(handle: &EngineHandle, id: u64, sampling: SamplingParams) -> Vec<TokenEvent> {
    let (mut request, mut events) = request(id, &[7, 8, 9], 24);
    request.sampling = sampling;
    handle.submit(request).unwrap();
    std::iter::from_fn(|| events.blocking_recv())
        .filter(|event| matches!(event, TokenEvent::Token { .. }))
        .collect()
}

fn ids_of(events: &[TokenEvent]) -> Vec<u32> {
    let id = |event: &TokenEvent| match event {
        TokenEvent::Token { id, .. } => *id,
        TokenEvent::Finished(_) | TokenEvent::Prompt(_) => u32::MAX,
    };
    events.iter().map(id).collect()
}

#[test]
fn seeded_sampling_is_the_same_on_every_split_and_alone_or_not() {
    let model = tiny();
    let sampling = SamplingParams {
        temperature: 0.9,
        top_k: 50,
        top_p: 0.9,
        repetition_penalty: 1.1,
        seed: 77,
        logprobs: Some(3),
        ..SamplingParams::default()
    };
    let one = start(&model, &Run::whole(&model.shape));
    let two = start(
        &model,
        &Run {
            shards: halves(&model),
            ..Run::whole(&model.shape)
        },
    );
    let first = sampled(&one, 1, sampling);
    assert_eq!(ids_of(&first), ids_of(&sampled(&two, 1, sampling)));
    let busy: Vec<_> = (10..14)
        .map(|id| ask_ids(&one, id, &[1, 2, 3], 60))
        .collect();
    assert_eq!(
        first,
        sampled(&one, 2, sampling),
        "with others in the batch"
    );
    drop(busy);
    let other = SamplingParams {
        stream: 1,
        ..sampling
    };
    assert_ne!(
        ids_of(&first),
        ids_of(&sampled(&one, 3, other)),
        "another stream"
    );
    for event in &first {
        let TokenEvent::Token {
            logprob: Some(logprob),
            ..
        } = event
        else {
            panic!("{event:?}")
        };
        assert!(logprob.logprob <= 0.0 && logprob.top.len() == 3);
        assert!(logprob.top.is_sorted_by(|a, b| a.1 >= b.1));
    }
}

#[test]
fn the_ledger_holds_what_the_plan_says_and_the_kernel_sees() {
    let model = tiny();
    let run = Run {
        shards: halves(&model),
        ..Run::whole(&model.shape)
    };
    let handle = start(&model, &run);
    let answered = ask_ids(&handle, 1, &[3; 50], 30).wait();
    assert_eq!(answered.ids.len(), 30);
    assert_eq!(handle.memory().kv.blocks_used, 0);
    std::thread::sleep(Duration::from_millis(1100));
    let snapshot = handle.memory();
    assert_eq!(snapshot.ranks.len(), 2);
    for rank in &snapshot.ranks {
        let mut reserved = Bytes::ZERO;
        for row in &rank.accounts {
            assert_eq!(row.planned, row.reserved, "{row:?}");
            assert!(
                row.used <= row.reserved && row.used <= row.high_water,
                "{row:?}"
            );
            reserved += row.reserved;
        }
        assert!(reserved <= rank.budget);
        assert_eq!(
            rank.driver, reserved,
            "committed pages are resident, and nothing else"
        );
        assert_eq!(rank.other, 0);
        let kv = rank
            .accounts
            .iter()
            .find(|row| row.account == Account::KvCache)
            .unwrap();
        assert_eq!(kv.used, Bytes::ZERO);
        assert!(kv.high_water > Bytes::ZERO, "blocks were in use");
    }
    let kv = snapshot.kv;
    assert_eq!(
        (kv.blocks_total, kv.blocks_used, kv.slots_wasted),
        (200, 0, 0)
    );
    assert_eq!(
        kv.blocks_cached, 4,
        "79 computed tokens fill 4 blocks of 16, kept for a prefix"
    );
}

#[test]
fn weights_are_checked_between_the_steps_of_a_request_and_in_an_idle_engine() {
    let model = tiny();
    let run = Run {
        shards: halves(&model),
        ..Run::whole(&model.shape)
    };
    let handle = start(&model, &run);
    let check = || handle.check_weights().wait().unwrap();
    let idle = check();
    assert_eq!(idle.len(), 2);
    assert!(
        idle.iter()
            .all(|rank| rank.changed.is_empty() && rank.bytes > 0),
        "{idle:?}"
    );
    let alone = ask_ids(&handle, 1, &[3, 4, 5], 300).wait().ids;
    let answer = ask_ids(&handle, 2, &[3, 4, 5], 300);
    for _ in 0..5 {
        assert_eq!(check(), idle);
    }
    assert_eq!(answer.wait().ids, alone);
    handle.drain();
    wait_for(&handle, |state| *state == EngineState::Drained);
    assert_eq!(
        handle.check_weights().wait().unwrap_err(),
        ControlError::Ended
    );
}

#[test]
fn an_idle_engine_takes_no_steps() {
    let model = tiny();
    let handle = start(&model, &Run::whole(&model.shape));
    ask_ids(&handle, 1, &[3; 5], 3).wait();
    let steps = handle.stats().steps;
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(handle.stats().steps, steps);
}

#[test]
fn a_bias_decides_and_the_end_waits_for_the_least_number_of_tokens() {
    let model = tiny();
    let handle = start(&model, &Run::whole(&model.shape));
    let greedy = ask_ids(&handle, 1, &[3, 4, 5], 8).wait().ids;
    let ask = |id, change: &dyn Fn(&mut GenerateRequest)| {
        let (mut request, mut events) = request(id, &[3, 4, 5], 8);
        change(&mut request);
        handle.submit(request).unwrap();
        let events: Vec<_> = std::iter::from_fn(|| events.blocking_recv()).collect();
        let (end, tokens) = events.split_last().unwrap();
        let TokenEvent::Finished(end) = end else {
            panic!("{end:?}")
        };
        (ids_of(tokens), end.reason)
    };
    let (ids, _) = ask(2, &|request| request.bias = vec![(9, 100.0)]);
    assert_eq!(ids, [9; 8]);
    let (ids, _) = ask(3, &|request| request.bias = vec![(greedy[0], -100.0)]);
    assert_ne!(ids[0], greedy[0]);
    // Without a least number the first token ends it.
    let (ids, reason) = ask(4, &|request| request.eos = vec![greedy[0]]);
    assert_eq!((&ids[..], reason), (&greedy[..1], FinishReason::Stop));
    let (ids, _) = ask(5, &|request| {
        request.eos = vec![greedy[0]];
        request.min_tokens = 3;
    });
    assert!(ids.len() > 3 && !ids[..3].contains(&greedy[0]), "{ids:?}");
    // The end is forbidden for three tokens, whatever the bias says, and comes at once then.
    let (ids, reason) = ask(6, &|request| {
        request.eos = vec![7, 2];
        request.bias = vec![(7, 100.0)];
        request.min_tokens = 3;
    });
    assert_eq!((ids.len(), ids[3], reason), (4, 7, FinishReason::Stop));
    assert!(!ids[..3].contains(&7) && !ids[..3].contains(&2), "{ids:?}");
}
