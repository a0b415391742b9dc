//! Steps sent before the last one's tokens are known: the tokens are those of one step at a time.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use harness::{Run, eventually, halves, request, start, tiny};
use plimsoll_planner::Shard;
use plimsoll_sidecar::engine::handle::EngineHandle;
use plimsoll_sidecar::engine::request::{Finished, SamplingParams, TokenEvent};

/// What a request asks beside its prompt.
#[derive(Clone, Debug, Default)]
struct Asked {
    sampling: SamplingParams,
    eos: Vec<u32>,
    max_tokens: u32,
}

fn submit(
    handle: &EngineHandle,
    id: u64,
    prompt: &[u32],
    asked: &Asked,
) -> tokio::sync::mpsc::Receiver<TokenEvent> {
    let (mut request, events) = request(id, prompt, asked.max_tokens);
    request.sampling = asked.sampling;
    request.eos.clone_from(&asked.eos);
    handle.submit(request).unwrap();
    events
}

fn wait(mut events: tokio::sync::mpsc::Receiver<TokenEvent>) -> (Vec<u32>, Finished) {
    let mut ids = Vec::new();
    while let Some(event) = events.blocking_recv() {
        match event {
            TokenEvent::Prompt(_) => {}
            TokenEvent::Token { id, .. } => ids.push(id),
            TokenEvent::Finished(finished) => return (ids, finished),
        }
    }
    panic!("no end after {ids:?}");
}

/// Greedy, penalised, drawn, and ended by a token in the middle, more than the cache has room for.
fn tokens(steps_under_way: usize, shards: Vec<Shard>) -> (Vec<Vec<u32>>, u64) {
    let model = tiny();
    let run = Run {
        shards,
        steps_under_way,
        kv_blocks: 14,
        max_model_len: 128,
        max_num_seqs: 6,
        ..Run::whole(&model.shape)
    };
    let handle = start(&model, &run);
    let greedy = Asked {
        max_tokens: 60,
        ..Asked::default()
    };
    let (whole, _) = wait(submit(&handle, 0, &[3, 4, 5], &greedy));
    let penalised = SamplingParams {
        repetition_penalty: 1.4,
        frequency_penalty: 0.6,
        presence_penalty: 0.3,
        ..SamplingParams::default()
    };
    let drawn = SamplingParams {
        temperature: 0.9,
        top_p: 0.95,
        seed: 11,
        ..penalised
    };
    let with = |sampling: SamplingParams| Asked {
        sampling,
        ..greedy.clone()
    };
    let ends = Asked {
        eos: vec![whole[20]],
        ..greedy.clone()
    };
    let kinds = [greedy.clone(), with(penalised), with(drawn), ends];
    let readers: Vec<_> = (0..12u32)
        .map(|n| {
            let prompt: Vec<u32> = match n % 4 {
                3 => vec![3, 4, 5],
                _ => (0..5 + 3 * n).map(|at| 7 + (at * (n + 1)) % 200).collect(),
            };
            submit(&handle, n.into(), &prompt, &kinds[n as usize % 4])
        })
        .collect();
    let answers = readers.into_iter().map(|reader| wait(reader).0).collect();
    eventually("an empty cache", || handle.stats().running == 0);
    (answers, handle.stats().preemptions)
}

#[test]
fn two_steps_under_way_draw_the_tokens_of_one() {
    let model = tiny();
    let whole = || Run::whole(&model.shape).shards;
    let (one, _) = tokens(1, whole());
    let (two, preempted) = tokens(2, whole());
    assert_eq!(one, two);
    assert!(preempted > 0, "the cache was large enough for all");
    assert_eq!(tokens(2, halves(&model)).0, one, "on two ranks");
    assert!(
        one.iter().any(|ids| ids.len() < 60),
        "no request ended early"
    );
}

/// When the end comes as a surprise a row of the request is under way that nobody wants; the next
/// request may have the same id.
#[test]
fn an_id_that_is_used_again_at_once_gets_its_own_tokens() {
    let model = tiny();
    let handle = start(&model, &Run::whole(&model.shape));
    let ask = |prompt: &[u32], eos: Vec<u32>| {
        let asked = Asked {
            eos,
            max_tokens: 12,
            ..Asked::default()
        };
        wait(submit(&handle, 5, prompt, &asked)).0
    };
    let (first, second) = (ask(&[9, 8, 7], vec![]), ask(&[4, 4, 6], vec![]));
    for _ in 0..20 {
        let cut = ask(&[9, 8, 7], vec![first[3]]);
        assert!(cut.len() <= 4 && cut[..] == first[..cut.len()], "{cut:?}");
        assert_eq!(ask(&[4, 4, 6], vec![]), second);
    }
}
