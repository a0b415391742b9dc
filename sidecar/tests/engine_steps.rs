//! Steps sent before the last one's tokens are known: the tokens are those of one step at a time.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use harness::{Run, eventually, halves, request, start, tiny};
use plimsoll_planner::Shard;
use plimsoll_sidecar::engine::handle::EngineHandle;
use plimsoll_sidecar::engine::request::{Finished, SamplingParams, TokenEvent};

const PENALISED: SamplingParams = SamplingParams {
    temperature: 0.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition_penalty: 1.4,
    presence_penalty: 0.3,
    frequency_penalty: 0.6,
    seed: 0,
    stream: 0,
    logprobs: None,
};

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
    let drawn = SamplingParams {
        temperature: 0.9,
        top_p: 0.95,
        seed: 11,
        ..PENALISED
    };
    let with = |sampling: SamplingParams| Asked {
        sampling,
        ..greedy.clone()
    };
    let ends = Asked {
        eos: vec![whole[20]],
        ..greedy.clone()
    };
    let kinds = [greedy.clone(), with(PENALISED), with(drawn), ends];
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

/// The token with the largest logit after penalties, from the whole history.
fn naive(logits: &[f32], prompt: &[u32], output: &[u32]) -> u32 {
    let penalised = logits.iter().zip(0u32..).map(|(x, id)| {
        let times = output.iter().filter(|other| **other == id).count();
        let mut x = match times > 0 || prompt.contains(&id) {
            false => return (*x, id),
            true if *x > 0.0 => x / PENALISED.repetition_penalty,
            true => x * PENALISED.repetition_penalty,
        };
        if times > 0 {
            x -= PENALISED.presence_penalty;
        }
        (0..times).for_each(|_| x -= PENALISED.frequency_penalty);
        (x, id)
    });
    let best = penalised.fold((f32::NEG_INFINITY, 0), |best, one| match one.0 > best.0 {
        true => one,
        false => best,
    });
    best.1
}

#[test]
fn penalties_count_the_whole_sequence_also_when_it_is_computed_anew() {
    let model = tiny();
    let run = Run {
        shards: halves(&model),
        kv_blocks: 14,
        max_model_len: 128,
        ..Run::whole(&model.shape)
    };
    let handle = start(&model, &run);
    let asked: Vec<_> = (0..4u32)
        .map(|n| {
            let prompt: Vec<u32> = (0..9 + n).map(|at| 7 + at * (n + 1) % 5).collect();
            let (mut request, events) = request(n.into(), &prompt, 50);
            request.sampling = PENALISED;
            let (sink, logits) = std::sync::mpsc::channel();
            handle.submit_with_logits(request, sink).unwrap();
            (prompt, events, logits)
        })
        .collect();
    let mut preempted = 0;
    for (prompt, events, logits) in asked {
        let (ids, finished) = wait(events);
        preempted += finished.preemptions;
        let expected: Vec<u32> = logits
            .iter()
            .zip(0..)
            .map(|(logits, at)| naive(&logits, &prompt, &ids[..at]))
            .collect();
        assert_eq!(ids, expected, "after {prompt:?}");
    }
    assert!(preempted > 0, "the cache was large enough for all");
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
