//! A seeded random story of sequences that come, grow, share prefixes and go while the pool grows and
//! shrinks; every invariant of the pool is recounted after every step.
#![allow(clippy::cast_possible_truncation, reason = "small worlds")]

use std::collections::HashMap;

use super::blocks::{BlockId, BlockPool};
use super::table::BlockTable;

/// SplitMix64: small, seeded, the same everywhere.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

struct Sequence {
    tokens: Vec<u32>,
    computed: usize,
    table: BlockTable,
}

fn check(pool: &BlockPool, sequences: &[Sequence], contents: &HashMap<BlockId, Vec<u32>>) {
    let mut holders: HashMap<BlockId, u32> = HashMap::new();
    for sequence in sequences {
        for block in sequence.table.blocks() {
            *holders.entry(*block).or_default() += 1;
        }
        // Every computed token lies where the table says.
        for (token, id) in sequence.tokens[..sequence.computed].iter().enumerate() {
            let slot = sequence.table.slot(token);
            assert_eq!(contents[&(slot as u32 / 4)][slot as usize % 4], *id);
        }
    }
    pool.check(&holders);
}

/// What is left out of a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Copy,
    Table,
    Name,
}

/// Grows or shrinks the pool, and what a device would hold with it; how many blocks moved.
fn resize(
    pool: &mut BlockPool,
    sequences: &mut [Sequence],
    contents: &mut HashMap<BlockId, Vec<u32>>,
    blocks: u32,
    fault: Fault,
) -> usize {
    if blocks > pool.total() {
        pool.grow(blocks);
        return 0;
    }
    let moves = pool.shrink(blocks);
    assert!(moves.is_sorted_by_key(|one| one.from));
    for (at, one) in moves.iter().enumerate() {
        assert!(
            one.to > 0 && one.to < blocks && one.from >= blocks,
            "{one:?}"
        );
        // What was taken and not written yet is whatever it is.
        let copy = contents.get(&one.from).cloned().unwrap_or(vec![9; 4]);
        if fault != Fault::Copy || at > 0 {
            contents.insert(one.to, copy);
        }
        if fault == Fault::Name {
            pool.misname(*one);
        }
    }
    contents.retain(|id, _| *id < blocks);
    for sequence in sequences.iter_mut().filter(|_| fault != Fault::Table) {
        sequence.table.follow(&moves);
    }
    moves.len()
}

#[test]
fn a_random_story_conserves_blocks_and_never_mixes_contents() {
    let moved: usize = (0..40).map(|seed| story(seed, Fault::None)).sum();
    assert!(moved > 1000, "only {moved} blocks moved");
}

#[test]
fn a_block_that_is_not_copied_a_table_that_stays_and_a_stale_name_are_each_noticed() {
    for fault in [Fault::Copy, Fault::Table, Fault::Name] {
        let noticed = (0..5).filter(|seed| {
            let story = || story(*seed, fault);
            std::panic::catch_unwind(story).is_err()
        });
        assert_eq!(noticed.count(), 5, "{fault:?}");
    }
}

fn story(seed: u64, fault: Fault) -> usize {
    let mut dice = Dice(seed);
    let mut pool = BlockPool::new(20 + seed as u32);
    let mut sequences: Vec<Sequence> = Vec::new();
    // What a device would hold: 4 tokens per block, written when computed.
    let mut contents: HashMap<BlockId, Vec<u32>> = HashMap::new();
    let (mut hits, mut moved) = (0, 0);
    for _ in 0..600 {
        match dice.roll(11) {
            10 => {
                // From what is held at least to more than twice what it began with.
                let least = pool.used() + 1;
                let blocks = least + dice.roll((60 - least.min(59)) as usize) as u32;
                let held = (&mut sequences[..], &mut contents);
                moved += resize(&mut pool, held.0, held.1, blocks, fault);
            }
            0..3 => {
                // Two-letter prompts with few letters: prefixes repeat often.
                let tokens: Vec<u32> = (0..1 + dice.roll(20))
                    .map(|_| dice.roll(2) as u32)
                    .collect();
                let mut table = BlockTable::new(4, "");
                let prefix = table.find_prefix(&pool, &tokens);
                assert!(
                    prefix.len() * 4 < tokens.len(),
                    "the last token is computed again"
                );
                table.adopt(&mut pool, &prefix);
                hits += prefix.len();
                if table.grow(&mut pool, tokens.len()) {
                    sequences.push(Sequence {
                        computed: prefix.len() * 4,
                        tokens,
                        table,
                    });
                } else {
                    table.clear(&mut pool);
                }
            }
            3..8 if !sequences.is_empty() => {
                let index = dice.roll(sequences.len());
                let sequence = &mut sequences[index];
                if sequence.computed == sequence.tokens.len() {
                    sequence.tokens.push(dice.roll(2) as u32);
                }
                let chunk = 1 + dice.roll(sequence.tokens.len() - sequence.computed);
                let end = sequence.computed + chunk;
                if sequence.table.grow(&mut pool, end) {
                    for token in sequence.computed..end {
                        let slot = sequence.table.slot(token) as usize;
                        let block = contents.entry((slot / 4) as u32).or_insert(vec![9; 4]);
                        // A block that two tables share is never written.
                        assert_eq!(pool.references((slot / 4) as u32), 1);
                        block[slot % 4] = sequence.tokens[token];
                    }
                    sequence.computed = end;
                    let Sequence {
                        tokens,
                        computed,
                        table,
                    } = sequence;
                    table.name_computed(&mut pool, tokens, *computed);
                }
            }
            8 if dice.roll(100) == 0 => pool.forget(),
            _ if !sequences.is_empty() => {
                let index = dice.roll(sequences.len());
                sequences.swap_remove(index).table.clear(&mut pool);
            }
            _ => {}
        }
        check(&pool, &sequences, &contents);
    }
    assert!(hits > 0, "seed {seed}: the story never reused a prefix");
    sequences
        .drain(..)
        .for_each(|mut sequence| sequence.table.clear(&mut pool));
    assert_eq!(
        pool.available(),
        pool.total(),
        "seed {seed}: blocks are lost"
    );
    moved
}

#[test]
fn prefixes_outlive_tails_and_unnamed_blocks_go_first() {
    let mut pool = BlockPool::new(6);
    let mut table = BlockTable::new(2, "");
    let tokens = [1, 2, 3, 4, 5];
    assert!(table.grow(&mut pool, 5));
    table.name_computed(&mut pool, &tokens, 5);
    let blocks = table.blocks().to_vec();
    table.clear(&mut pool);
    assert_eq!((pool.cached(), pool.available()), (2, 5));
    // The unnamed tail first, then the two never used, then the second block, the first last.
    let taken: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    assert_eq!(taken[0], blocks[2]);
    assert_eq!(taken[3..], [blocks[1], blocks[0]]);
}

#[test]
fn another_salt_finds_nothing() {
    let mut pool = BlockPool::new(6);
    let tokens = [7; 9];
    let mut table = BlockTable::new(4, "tenant-a");
    assert!(table.grow(&mut pool, 8));
    table.name_computed(&mut pool, &tokens, 8);
    assert_eq!(
        BlockTable::new(4, "tenant-a")
            .find_prefix(&pool, &tokens)
            .len(),
        2
    );
    assert_eq!(
        BlockTable::new(4, "tenant-b")
            .find_prefix(&pool, &tokens)
            .len(),
        0
    );
}
