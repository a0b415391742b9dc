//! Seeded random stories of requests that come, run, are preempted, cancelled and end, on caches
//! of every size that grow and shrink meanwhile, with everything recounted after every step.
#![allow(clippy::cast_possible_truncation, reason = "small worlds")]

use std::collections::{HashMap, VecDeque};

use super::device::{Device, next_token};
use super::{Batch, Chunk, NewSequence, Scheduler, SchedulerConfig, Settled};
use crate::cache::blocks::BlockId;
use crate::cache::story::Dice;

fn check(scheduler: &Scheduler, batch: &Batch, config: &SchedulerConfig) {
    let mut holders: HashMap<BlockId, u32> = HashMap::new();
    for sequence in scheduler.running() {
        for block in sequence.table.blocks() {
            *holders.entry(*block).or_default() += 1;
        }
        assert!(sequence.computed <= sequence.table.capacity());
        assert!(sequence.tokens.len() <= sequence.max_len);
    }
    for sequence in &scheduler.waiting {
        assert!(
            sequence.table.blocks().is_empty(),
            "a waiting sequence holds blocks"
        );
    }
    scheduler.pool().check(&holders);
    let wasted: usize = scheduler
        .running()
        .iter()
        .map(|s| s.table.capacity() - s.computed)
        .sum();
    assert_eq!(scheduler.slots_wasted(), wasted as u64);
    assert!(scheduler.running().len() <= config.max_num_seqs);
    let tokens: usize = batch.chunks.iter().map(|chunk| chunk.count).sum();
    assert!(tokens <= config.max_num_batched_tokens);
    let rows: usize = batch.chunks.iter().map(Chunk::rows).sum();
    assert!(rows <= config.max_num_seqs, "{rows} rows are read");
    let turns: Vec<_> = scheduler.running().iter().map(|s| s.turn(3)).collect();
    assert!(turns.is_sorted(), "running sequences are not in turn order");
}

/// Expected output of a prompt, without any scheduler.
fn oracle(prompt: &[u32], max_len: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    while tokens.len() < max_len {
        tokens.push(next_token(&tokens));
    }
    tokens
}

#[test]
fn random_stories_end_with_the_tokens_of_a_sequential_run() {
    stories(1);
}

/// The same with the next step planned before the last one's tokens are known.
#[test]
fn random_stories_with_two_steps_under_way_end_with_the_same_tokens() {
    stories(2);
}

fn stories(most_under_way: usize) {
    let (mut preemptions, mut hits, mut again, mut moved) = (0, 0, 0, 0);
    // So many that enough is preempted, though a sixth of the sequences draw nothing and so never grow.
    for seed in 0..100 {
        let mut dice = Dice(seed);
        let config = SchedulerConfig {
            max_num_seqs: 1 + dice.roll(6),
            max_num_batched_tokens: 1 + dice.roll(24),
            block_size: 4,
            kv_blocks: 11 + dice.roll(14) as u32,
            prefix_cache: dice.roll(4) > 0,
        };
        let longest = (config.kv_blocks as usize - 1) * 4;
        let mut scheduler = Scheduler::new(config);
        let mut device = Device::default();
        let mut expected: HashMap<u64, Vec<u32>> = HashMap::new();
        let mut under_way: VecDeque<(Batch, Vec<Option<u32>>)> = VecDeque::new();
        // Of prompts that are scored: the tokens whose scores came, in order.
        let mut scored: HashMap<u64, Vec<u32>> = HashMap::new();
        let (mut next_id, mut resizes) = (0, false);
        let mut steps_left = 100_000;
        while next_id < 40 || !scheduler.is_empty() || !under_way.is_empty() {
            steps_left -= 1;
            assert!(steps_left > 0, "seed {seed}: a sequence starves");
            if next_id < 40 && dice.roll(3) == 0 {
                let prompt: Vec<u32> = (0..1 + dice.roll(longest - 1))
                    .map(|_| dice.roll(2) as u32)
                    .collect();
                let scores = dice.roll(3) == 0;
                let least = if scores { dice.roll(2) } else { 1 };
                let max_len = (prompt.len() + least + dice.roll(20) * least).min(longest);
                if scores {
                    scored.insert(next_id, Vec::new());
                }
                expected.insert(next_id, oracle(&prompt, max_len));
                device.tokens.insert(next_id, prompt.clone());
                let cache_salt = String::new();
                scheduler.add(NewSequence {
                    id: next_id,
                    prompt,
                    max_len,
                    cache_salt,
                    adapter: None,
                    scores,
                });
                next_id += 1;
            }
            if dice.roll(40) == 0 && !expected.is_empty() {
                let id = dice.roll(next_id as usize) as u64;
                assert_eq!(
                    scheduler.remove(id).is_some(),
                    expected.remove(&id).is_some()
                );
            }
            if dice.roll(30) == 0 && under_way.is_empty() {
                // The memory of the cache goes, and comes back empty.
                scheduler.preempt_all();
                scheduler.reset_prefix_cache();
                device.slots.clear();
            }
            resizes |= dice.roll(8) == 0;
            if resizes && under_way.is_empty() {
                resizes = false;
                // Never less than the longest sequence takes.
                let blocks = config.kv_blocks + dice.roll(20) as u32;
                let moves = scheduler.resize(blocks);
                device.resize(blocks, &moves);
                moved += moves.len();
                assert_eq!(scheduler.pool().total() + 1, blocks);
            }
            let mut batch = Batch::default();
            // The steps under way land first.
            if !resizes {
                scheduler.schedule(&mut batch);
            }
            check(&scheduler, &batch, &config);
            assert!(
                !batch.chunks.is_empty() || scheduler.is_empty() || !under_way.is_empty(),
                "seed {seed}: stuck"
            );
            let launched = !batch.chunks.is_empty();
            if launched {
                let drawn = device.run(&scheduler, &batch);
                scheduler.sent(&batch);
                under_way.push_back((batch, drawn));
            }
            if launched && under_way.len() < most_under_way {
                continue;
            }
            let mut done = Vec::new();
            let (batch, drawn) = under_way.pop_front().unwrap_or_default();
            for (chunk, token) in batch.chunks.iter().zip(drawn) {
                let [from, to] = chunk.scored;
                let inside = from >= chunk.start && to <= chunk.start + chunk.count;
                assert!(from == to || inside);
                match scored.get_mut(&chunk.id) {
                    Some(scored) => {
                        let tokens = &device.tokens[&chunk.id];
                        scored.extend(&tokens[from + 1..to + 1]);
                        again += usize::from(from < to && chunk.start < from);
                    }
                    None => assert_eq!(from, to),
                }
                if scheduler.settle(chunk, token) == Settled::Full {
                    done.push(chunk.id);
                }
            }
            for id in done {
                let sequence = scheduler.remove(id).unwrap();
                if let Some(scored) = scored.remove(&id) {
                    let prompt = &sequence.tokens[1..sequence.prompt_len];
                    assert_eq!(scored, prompt, "seed {seed}: scored once, in order");
                }
                assert_eq!(
                    Some(sequence.tokens),
                    expected.remove(&id),
                    "seed {seed}, {id}"
                );
            }
        }
        assert!(
            expected.is_empty(),
            "seed {seed}: {} never ended",
            expected.len()
        );
        assert_eq!(
            scheduler.pool().available(),
            scheduler.pool().total(),
            "blocks are lost"
        );
        preemptions += scheduler.counters().preemptions;
        hits += scheduler.counters().prefix_hits;
    }
    assert!(
        preemptions > 100,
        "the stories preempted only {preemptions} times"
    );
    assert!(moved > 100, "the resizes moved only {moved} blocks");
    assert!(again > 0, "no scored prompt went on after a preemption");
    assert!(
        hits > 100,
        "the stories found only {hits} tokens in the prefix cache"
    );
}

#[test]
fn a_scored_prompt_comes_in_chunks_of_the_rows_there_are_and_from_no_cache() {
    let mut scheduler = scheduler(64, 30);
    let ask = |scheduler: &mut Scheduler, id: u64, output: usize| {
        scheduler.add(NewSequence {
            id,
            prompt: (0..20).collect(),
            max_len: 20 + output,
            cache_salt: String::new(),
            adapter: None,
            scores: true,
        });
    };
    ask(&mut scheduler, 1, 0);
    let chunks = |scheduler: &mut Scheduler| -> Vec<_> {
        let chunks = step(scheduler).chunks;
        let shape = |c: &Chunk| (c.id, c.count, c.scored, c.samples);
        chunks.iter().map(shape).collect()
    };
    assert_eq!(chunks(&mut scheduler), [(1, 8, [0, 8], false)]);
    // Eight rows a step: the next one waits, though there are tokens and blocks for it.
    ask(&mut scheduler, 2, 1);
    assert_eq!(chunks(&mut scheduler), [(1, 8, [8, 16], false)]);
    assert_eq!(
        chunks(&mut scheduler),
        [(1, 4, [16, 19], false), (2, 5, [0, 5], false)],
        "the row of the last token is not read: nothing is drawn"
    );
    scheduler.remove(1);
    assert_eq!(chunks(&mut scheduler), [(2, 8, [5, 13], false)]);
    assert_eq!(chunks(&mut scheduler), [(2, 7, [13, 19], true)]);
}

fn scheduler(max_num_batched_tokens: usize, kv_blocks: u32) -> Scheduler {
    Scheduler::new(SchedulerConfig {
        max_num_seqs: 8,
        max_num_batched_tokens,
        block_size: 4,
        kv_blocks,
        prefix_cache: true,
    })
}

fn add(scheduler: &mut Scheduler, id: u64, prompt: Vec<u32>, output: usize) {
    let max_len = prompt.len() + output;
    scheduler.add(NewSequence {
        id,
        prompt,
        max_len,
        cache_salt: String::new(),
        adapter: None,
        scores: false,
    });
}

fn step(scheduler: &mut Scheduler) -> Batch {
    let mut batch = Batch::default();
    scheduler.schedule(&mut batch);
    scheduler.sent(&batch);
    for chunk in &batch.chunks {
        scheduler.settle(chunk, chunk.samples.then_some(1));
    }
    batch
}

#[test]
fn decodes_go_before_the_chunks_of_a_long_prompt() {
    let mut scheduler = scheduler(8, 100);
    add(&mut scheduler, 1, vec![5; 3], 50);
    step(&mut scheduler);
    add(&mut scheduler, 2, vec![6; 30], 5);
    let planned: Vec<_> = step(&mut scheduler)
        .chunks
        .iter()
        .map(|c| (c.id, c.count, c.samples))
        .collect();
    assert_eq!(planned, [(1, 1, true), (2, 7, false)]);
}

#[test]
fn the_newest_is_preempted_and_the_aged_goes_first() {
    let mut scheduler = scheduler(64, 7);
    add(&mut scheduler, 1, vec![5; 8], 16);
    add(&mut scheduler, 2, vec![6; 8], 16);
    let mut preempted = Vec::new();
    while !scheduler.is_empty() {
        let batch = step(&mut scheduler);
        preempted.extend(batch.preempted);
        let full = scheduler
            .running()
            .iter()
            .filter(|s| s.tokens.len() >= s.max_len);
        let full: Vec<u64> = full.map(|s| s.id).collect();
        full.into_iter().for_each(|id| drop(scheduler.remove(id)));
    }
    assert_eq!(
        preempted,
        [2],
        "the older one never yields, the newer one once"
    );
}

#[test]
fn a_repeated_prompt_computes_its_last_token_only() {
    let mut scheduler = scheduler(64, 20);
    add(&mut scheduler, 1, (0..9).collect(), 4);
    step(&mut scheduler);
    scheduler.remove(1);
    add(&mut scheduler, 2, (0..9).collect(), 4);
    assert_eq!(step(&mut scheduler).chunks[0].count, 1);
    // Eight tokens fill two blocks exactly: the last of them is computed all the same.
    scheduler.remove(2);
    add(&mut scheduler, 3, (0..8).collect(), 4);
    assert_eq!(step(&mut scheduler).chunks[0].count, 4);
    assert_eq!(scheduler.counters().prefix_hits, 8 + 4);
}

#[test]
fn a_step_of_a_sequence_that_is_gone_is_not_taken_for_one_of_a_later_of_the_same_id() {
    let mut scheduler = scheduler(64, 20);
    let launch = |scheduler: &mut Scheduler, prompt: u32| {
        add(scheduler, 1, vec![prompt; 6], 4);
        let mut batch = Batch::default();
        scheduler.schedule(&mut batch);
        scheduler.sent(&batch);
        batch.chunks[0]
    };
    let old = launch(&mut scheduler, 5);
    assert!(scheduler.remove(1).is_some());
    let new = launch(&mut scheduler, 6);
    assert_eq!(scheduler.settle(&old, Some(7)), Settled::Gone);
    assert_eq!(scheduler.settle(&new, Some(8)), Settled::Goes);
    assert_eq!(scheduler.running()[0].output(), [8]);
}
