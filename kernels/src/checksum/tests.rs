//! Flipped bits, order and length count; chunks may be taken in any order.

use super::*;
use crate::testing::Random;

fn bytes(len: usize, random: &mut Random) -> Vec<u8> {
    (0..len).map(|_| random.word().to_le_bytes()[0]).collect()
}

#[test]
fn one_flipped_bit_anywhere_changes_it() {
    let mut random = Random::new(3);
    for len in [0, 1, 7, 8, 63, 64, 65, 1000, 4096, 4097] {
        let bytes = bytes(len, &mut random);
        let before = run(&bytes);
        for bit in 0..len * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(run(&changed), before, "bit {bit} of {len} bytes");
        }
    }
}

#[test]
fn order_and_length_count() {
    assert_ne!(run(&[0; 64]), run(&[0; 65]));
    assert_ne!(run(&[]), run(&[0]));
    assert_ne!(run(&[1, 2]), run(&[2, 1]));
    let mut words = [0u8; 128];
    words[0] = 1;
    let first = run(&words);
    words.rotate_right(64);
    assert_ne!(run(&words), first);
}

#[test]
fn two_changes_and_swapped_chunks_do_not_cancel() {
    let mut random = Random::new(4);
    let bytes = bytes(3 * CHUNK_BYTES, &mut random);
    let before = run(&bytes);
    // The same number of every chunk changes its sign.
    for at in [1, 63, 4031, 4095] {
        let mut changed = bytes.clone();
        changed[at] ^= 0x80;
        changed[CHUNK_BYTES + at] ^= 0x80;
        assert_ne!(run(&changed), before, "byte {at}");
    }
    let mut swapped = bytes.clone();
    swapped.rotate_left(CHUNK_BYTES);
    assert_ne!(run(&swapped), before);
    assert_ne!(run(&[0; CHUNK_BYTES]), run(&[0; 2 * CHUNK_BYTES]));
}

/// The definition word by word, from the text of the module.
#[test]
fn it_is_what_the_definition_says() {
    let mut random = Random::new(5);
    for len in [0, 1, 64, 100, 4095, 4096, 4160, 9000] {
        let bytes = bytes(len, &mut random);
        let mut sum = spread(!(len as u64));
        for chunk in (0..len.div_ceil(4096)).rev() {
            let byte = |at: usize| match bytes.get(chunk * 4096 + at) {
                Some(byte) if at < 4096 => u64::from(*byte),
                _ => 0,
            };
            let rows = (len - chunk * 4096).min(4096).div_ceil(64);
            let mut figure = chunk as u64;
            for lane in 0..8 {
                let mut state = lane as u64 + 1;
                for row in 0..rows {
                    let word = (0..8)
                        .map(|i| byte(row * 64 + lane * 8 + i) << (8 * i))
                        .sum();
                    state = mix(state, word);
                }
                figure = mix(figure, state);
            }
            sum = sum.wrapping_add(spread(figure));
        }
        assert_eq!(run(&bytes), sum, "{len} bytes");
    }
}

#[test]
fn a_pool_finds_the_same_for_tensors_of_any_length() {
    let mut random = Random::new(6);
    let lengths = [0, 1, 4096, 3 << 20, 5, (1 << 20) + 1, 4097];
    let tensors = lengths.map(|len| bytes(len, &mut random));
    let views: Vec<&[u8]> = tensors.iter().map(Vec::as_slice).collect();
    let alone: Vec<u64> = views.iter().map(|bytes| run(bytes)).collect();
    for threads in [1, 3] {
        let pool = Pool::new(threads, crate::isa::Isa::Scalar).unwrap();
        assert_eq!(run_all(&pool, &views), alone);
    }
}

fn mix(sum: u64, word: u64) -> u64 {
    (sum ^ word)
        .wrapping_mul(0x9E37_79B1_85EB_CA87)
        .rotate_left(31)
}

fn spread(mut v: u64) -> u64 {
    for (shift, factor) in [(30, 0xBF58_476D_1CE4_E5B9), (27, 0x94D0_49BB_1331_11EB)] {
        v = (v ^ (v >> shift)).wrapping_mul(factor);
    }
    v ^ (v >> 31)
}
