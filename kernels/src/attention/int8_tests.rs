//! A cache of integers: attention over it is attention over the numbers that it stands for, within f32's
//! rounding; and the promises of one of floats hold.
#![expect(clippy::cast_possible_truncation, reason = "within 127")]

use plimsoll_planner::{Dtype, KvDtype};

use super::case::{Case, Given};
use super::*;
use crate::encoding;
use crate::isa::Isa;
use crate::kv::Part;
use crate::testing::{Random, assert_close};

const FLOATS: Given = Given {
    dtype: Dtype::Float32,
    kv_heads: 2,
    group: 3,
    head_dim: 64,
    block_size: 16,
    window: None,
};

/// Integers and scales for the layer that a case has, in a poisoned cache; the case's own cache becomes
/// the numbers that they stand for.
struct Integers {
    case: Case,
    shape: KvCache<KvDtype>,
    cache: Vec<u8>,
}

impl Integers {
    fn new(given: &Given, sequences: &[(usize, usize)], random: &mut Random) -> Integers {
        let mut case = Case::new(given, sequences, random);
        let floats = case.shape;
        let shape = KvCache {
            dtype: KvDtype::Int8,
            ..floats.of_any()
        };
        let mut cache = vec![0xFF; shape.bytes()];
        for slot in 0..shape.blocks * shape.block_size {
            for head in 0..shape.heads {
                for part in [Part::Keys, Part::Values] {
                    let numbers = &mut case.cache[floats.row(slot, 1, part, head)];
                    if numbers.iter().all(|byte| *byte == 0xFF) {
                        continue;
                    }
                    let scale = random.value().abs() / 64.0;
                    let at = shape.scale(slot, 1, part, head).expect("integers");
                    encoding::store(Dtype::Float32, &mut cache[at], 0, scale);
                    for (d, to) in cache[shape.row(slot, 1, part, head)].iter_mut().enumerate() {
                        let integer = (random.value() * 127.0).round() as i8;
                        *to = integer.cast_unsigned();
                        let value = f32::from(integer) * scale;
                        encoding::store(Dtype::Float32, numbers, 4 * d, value);
                    }
                }
            }
        }
        Integers { case, shape, cache }
    }

    fn run(&self, on: (Isa, usize), parts: &[(usize, usize, usize)], scratch: usize) -> Vec<f32> {
        let cache = (self.cache.as_slice(), &self.shape);
        self.case.run_over(cache, on, parts, scratch)
    }
}

#[test]
fn integers_are_attended_as_the_numbers_that_they_stand_for() {
    let mut random = Random::new(5);
    let sequences = [(1, 1), (1, 33), (7, 7), (5, 31), (33, 50), (0, 9), (1, 300)];
    for (group, kv_heads, head_dim) in [
        (1, 2, 64),
        (2, 1, 80),
        (3, 3, 64),
        (4, 2, 16),
        (7, 1, 128),
        (9, 1, 96),
        (3, 1, 256),
        (2, 2, 6),
    ] {
        for (block_size, window) in [(16, None), (5, None), (32, Some(13)), (16, Some(1))] {
            let given = Given {
                kv_heads,
                group,
                head_dim,
                block_size,
                window,
                ..FLOATS
            };
            let integers = Integers::new(&given, &sequences, &mut random);
            let exact = integers.case.exact();
            for isa in Isa::available() {
                let out = integers.run((isa, 2), &integers.case.whole(), 0);
                let what = format!("{isa} group {group} head {head_dim} window {window:?}");
                assert_close(&out, &exact.out, |at| exact.bounds[at], &what);
            }
        }
    }
}

#[test]
fn a_row_over_integers_has_the_same_bits_in_any_chunk_batch_and_number_of_threads() {
    let mut random = Random::new(6);
    for (window, head_dim) in [(None, 64), (Some(100), 64), (None, 86)] {
        let given = Given {
            window,
            head_dim,
            ..FLOATS
        };
        let integers = Integers::new(&given, &[(290, 290), (61, 61)], &mut random);
        let row = integers.case.row();
        for isa in Isa::available() {
            let whole = integers.run((isa, 2), &integers.case.whole(), 0);
            let mut at = 0;
            for chunk in [1, 16, 37, 100, 129, 1, 1, 5] {
                let parts = [(1, 1, 61), (0, chunk, at + chunk)];
                for (threads, scratch) in [(1, 0), (3, 1 << 20)] {
                    let out = integers.run((isa, threads), &parts, scratch);
                    assert_eq!(out[..row], whole[(290 + 60) * row..][..row], "{isa}");
                    assert_eq!(
                        out[row..],
                        whole[at * row..][..chunk * row],
                        "{isa} at {at}"
                    );
                }
                at += chunk;
            }
            assert_eq!(at, 290);
        }
    }
}

#[test]
fn a_scale_that_is_no_number_is_seen_by_every_row_that_sees_its_key_and_by_no_other() {
    let mut random = Random::new(7);
    for part in [Part::Keys, Part::Values] {
        let mut integers = Integers::new(&FLOATS, &[(40, 40)], &mut random);
        let block = integers.case.tables[20 / 16] as usize;
        let scale = integers
            .shape
            .scale(block * 16 + 20 % 16, 1, part, 1)
            .expect("integers");
        integers.cache[scale].copy_from_slice(&f32::NAN.to_le_bytes());
        for isa in Isa::available() {
            let out = integers.run((isa, 2), &integers.case.whole(), 0);
            for (at, value) in out.iter().enumerate() {
                let (token, head) = (at / integers.case.row(), at / 64 % 6);
                let sees = token >= 20 && head >= 3;
                assert_eq!(
                    value.is_nan(),
                    sees,
                    "{isa} {part:?}: token {token}, head {head}"
                );
            }
        }
    }
}
