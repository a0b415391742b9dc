//! Random lives of engines, twelve of every architecture: whatever sequence of sleeps, wakes,
//! pauses, other sizes, updates, pushes and idle hours lies between and across requests, no token is lost
//! and none is said by weights that were not in force.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]
#![allow(clippy::cast_possible_truncation, reason = "fixtures are small")]
#![allow(
    clippy::print_stdout,
    reason = "a failure is read with the life that led to it"
)]

mod harness;
mod story;

use harness::{Run, fixtures, split};
use plimsoll_planner::{KvDtype, ModelShape, Shard};
use story::world::World;
use story::{Story, Tally};

/// Lives of every architecture, with a prefix cache and without.
const LIVES: u64 = 6;
/// Things that happen in one of them.
const EVENTS: usize = 30;

/// What must have happened in half of them at least so often, or they prove less than they say.
const LEAST: [(&str, u64); 16] = [
    ("answers of two sets of weights", 5),
    ("answers that were computed again", 20),
    ("pushes ended by a sleep", 3),
    ("pushes given up before a byte", 3),
    ("pushes given up half way", 3),
    ("pushes of a part", 3),
    ("pushes of other weights", 5),
    ("pushes of the same weights", 5),
    ("reads of a folder with other weights", 5),
    ("reads of a folder with the same weights", 5),
    ("resizes", 20),
    ("resizes in the midst of a push", 3),
    ("sleeps by its clock", 5),
    ("wakes for a request", 3),
    ("wakes that no weights were there for", 3),
    ("lives", 50),
];

fn lives(prefix_cache: bool) {
    let folders = std::fs::read_dir(fixtures().join("models")).unwrap();
    let mut folders: Vec<_> = folders.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let mut tally = Tally::new();
    for (index, folder) in (0..).zip(&folders) {
        // Of floats every split says the same; what integers round away hangs on the last bit.
        let kv_dtype = match index % 2 == u64::from(prefix_cache) {
            true => KvDtype::Float32,
            false => KvDtype::Int8,
        };
        let shards = |shape: &ModelShape, on_two: bool| match on_two {
            true => split(shape, 2, [0; 3]),
            false => vec![Shard::whole(shape)],
        };
        let is_integers = kv_dtype == KvDtype::Int8;
        let world = World::of(folder, |shape| Run {
            shards: shards(shape, is_integers && prefix_cache),
            kv_dtype,
            ..Run::whole(shape)
        });
        let shape = &world.models[0].shape;
        for seed in (0..LIVES).map(|life| LIVES * index + life) {
            let run = Run {
                shards: match is_integers {
                    true => shards(shape, prefix_cache),
                    false => shards(shape, seed % 2 == 0),
                },
                kv_dtype,
                prefix_cache,
                block_size: 4,
                ..Run::whole(shape)
            };
            println!("{}, seed {seed}", folder.display());
            let mut story = Story::new(&world, run, seed, &mut tally);
            (0..EVENTS).for_each(|_| story.go_on());
            story.end();
            *tally.entry("lives").or_default() += 1;
        }
    }
    for (what, least) in LEAST {
        let times = tally.get(what).copied().unwrap_or_default();
        assert!(
            times >= least,
            "{times} times {what}, at least {least}: {tally:?}"
        );
    }
}

#[test]
fn no_token_is_lost_or_mixed_whatever_lies_between_and_across_with_prefixes_that_are_kept() {
    lives(true);
}

#[test]
fn no_token_is_lost_or_mixed_whatever_lies_between_and_across_without_a_prefix_cache() {
    lives(false);
}
