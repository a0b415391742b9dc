//! Addresses stay, pages come and go, and nothing uncommitted can be read.
#![expect(clippy::cast_possible_truncation, reason = "test sizes are small")]

use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};

use super::*;
use crate::isa::Isa;
use crate::pool::Pool;
use crate::testing::Random;

fn bytes(count: usize) -> Bytes {
    Bytes::measured(count as u64)
}

fn page() -> usize {
    Cpu.granularity().get() as usize
}

fn pool() -> Pool {
    Pool::new(2, Isa::Scalar).unwrap()
}

#[test]
fn resident_equals_committed_and_discard_gives_it_back_at_the_same_address() {
    for pages in [Pages::Small, Pages::Huge] {
        let mut buffer = Cpu.reserve(bytes(64 << 20), pages).unwrap();
        let address = buffer.address();
        assert_eq!(buffer.resident().unwrap(), Bytes::ZERO);
        for step in [page(), 3 * page(), 5 << 20, (33 << 20) + page(), 64 << 20] {
            buffer.commit(0..step).unwrap();
            assert_eq!(buffer.resident().unwrap(), bytes(step));
            assert_eq!(
                (buffer.address(), buffer.committed()),
                (address, bytes(step))
            );
        }
        buffer.as_mut_slice::<u32>().fill(7);
        buffer.discard(&pool(), 0..64 << 20).unwrap();
        assert_eq!(buffer.resident().unwrap(), Bytes::ZERO);
        assert_eq!(
            (buffer.address(), buffer.committed()),
            (address, Bytes::ZERO)
        );
        buffer.commit_all().unwrap();
        assert_eq!(buffer.resident().unwrap(), bytes(64 << 20));
        assert!(
            buffer.as_slice::<u32>().iter().all(|value| *value == 0),
            "pages come back zeroed"
        );
    }
}

/// What each page of a buffer should hold: none, or this byte.
type Model = Vec<Option<u8>>;

fn pages_of(random: &mut Random, count: usize) -> Range<usize> {
    let [a, b] = [0; 2].map(|_| random.word() as usize % (count + 1));
    a.min(b)..a.max(b)
}

fn agrees(buffer: &Buffer, model: &Model) {
    let held = model.iter().flatten().count() * page();
    assert_eq!(buffer.committed(), bytes(held));
    assert_eq!(buffer.resident().unwrap(), bytes(held), "{model:?}");
    let in_set = |at: usize| {
        let ranges = buffer.committed_ranges();
        ranges.iter().any(|range| range.contains(&(at * page())))
    };
    for (at, content) in model.iter().enumerate() {
        assert_eq!(in_set(at), content.is_some(), "page {at} of {model:?}");
        if let Some(byte) = content {
            let page = buffer.range::<u8>(at * page(), page());
            assert!(page.iter().all(|b| b == byte), "page {at} of {model:?}");
        }
    }
}

/// Ranges that are committed, poisoned, written, given back and refused in any order.
#[test]
fn random_stories_agree_with_a_model_of_pages() {
    const PAGES: usize = 40;
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let (pool, device) = (pool(), Faulty::default());
        let kind = [Pages::Small, Pages::Huge][seed as usize % 2];
        let mut buffer = device.reserve(bytes(PAGES * page()), kind).unwrap();
        let (mut model, address): (Model, _) = (vec![None; PAGES], buffer.address());
        for step in 0..120 {
            let part = pages_of(&mut random, PAGES);
            let range = part.start * page()..part.end * page();
            let missing = model[part.clone()].iter().filter(|p| p.is_none()).count();
            assert_eq!(buffer.missing(&range), bytes(missing * page()));
            match random.word() % 5 {
                0 => {
                    buffer.commit(range).unwrap();
                    let new = model[part].iter_mut().filter(|page| page.is_none());
                    new.for_each(|page| *page = Some(0));
                }
                1 => {
                    buffer.commit_poisoned(&pool, range).unwrap();
                    let new = model[part].iter_mut().filter(|page| page.is_none());
                    new.for_each(|page| *page = Some(0xFF));
                }
                2 => {
                    buffer.discard(&pool, range).unwrap();
                    model[part].fill(None);
                }
                3 => {
                    device.commits_left(random.word() as usize % 3);
                    let gaps = model[part.clone()]
                        .chunk_by(|a, b| a.is_some() == b.is_some())
                        .filter(|pages| pages[0].is_none())
                        .count();
                    let before = buffer.committed_ranges().to_vec();
                    if buffer.commit_poisoned(&pool, range).is_ok() {
                        assert!(gaps <= 2, "{gaps} gaps of two commits");
                        let new = model[part].iter_mut().filter(|page| page.is_none());
                        new.for_each(|page| *page = Some(0xFF));
                    } else {
                        assert_eq!(buffer.committed_ranges(), before);
                    }
                    device.commits_left(usize::MAX);
                }
                _ => {
                    for at in part {
                        if let Some(byte) = &mut model[at] {
                            *byte = step;
                            buffer.range_mut(at * page(), page()).fill(step);
                        }
                    }
                }
            }
            assert_eq!(buffer.address(), address, "seed {seed}");
            agrees(&buffer, &model);
        }
    }
}

#[test]
fn a_commit_that_is_refused_halfway_gives_back_what_it_took_and_can_be_repeated() {
    for pages in [Pages::Small, Pages::Huge] {
        let device = Faulty::default();
        let size = 8 * PIECE_BYTES;
        let mut buffer = device.reserve(bytes(size), pages).unwrap();
        buffer.commit(0..PIECE_BYTES).unwrap();
        buffer.range_mut::<u8>(0, PIECE_BYTES).fill(9);
        for left in [0, 1, 5] {
            device.commits_left(left);
            let error = buffer.commit_poisoned(&pool(), 0..size).unwrap_err();
            assert!(matches!(error, DeviceError::Commit { .. }), "{error:?}");
            assert_eq!(buffer.committed(), bytes(PIECE_BYTES));
            assert_eq!(buffer.resident().unwrap(), bytes(PIECE_BYTES));
        }
        device.commits_left(usize::MAX);
        buffer.commit_poisoned(&pool(), 0..size).unwrap();
        assert_eq!(buffer.resident().unwrap(), bytes(size));
        let (kept, new) = (PIECE_BYTES, size - PIECE_BYTES);
        assert!(buffer.range::<u8>(0, kept).iter().all(|byte| *byte == 9));
        let is_poison = |byte: &u8| *byte == 0xFF;
        assert!(buffer.range::<u8>(kept, new).iter().all(is_poison));
    }
}

#[test]
fn a_discard_that_is_refused_leaves_all_committed_and_readable() {
    let device = Faulty::default();
    let mut buffer = device.reserve(bytes(8 * page()), Pages::Small).unwrap();
    buffer.commit(0..6 * page()).unwrap();
    device.refuse_discards(true);
    let error = buffer.discard(&pool(), 0..8 * page()).unwrap_err();
    assert!(matches!(error, DeviceError::Discard { .. }), "{error:?}");
    assert_eq!(buffer.committed(), bytes(6 * page()));
    buffer.range_mut::<u8>(0, 6 * page()).fill(1);
    device.refuse_discards(false);
    buffer.discard(&pool(), 0..8 * page()).unwrap();
    assert_eq!(buffer.resident().unwrap(), Bytes::ZERO);
}

#[test]
fn parts_are_apart_and_overlaps_and_holes_panic() {
    let mut buffer = Cpu.reserve(bytes(4 * page()), Pages::Small).unwrap();
    buffer.commit(0..page()).unwrap();
    buffer.commit(2 * page()..4 * page()).unwrap();
    let second = 2 * page() + 64;
    let [mut a, mut b, empty] = buffer.disjoint_mut([0..64, second..second + 8, 64..64]);
    a.all_mut::<u32>().fill(3);
    b.first_mut::<u64>(1)[0] = u64::from(a.first::<u32>(16)[15]);
    assert!(empty.first::<f32>(0).is_empty());
    assert_eq!(buffer.range::<u64>(second, 1), [3]);
    let mut panics = |parts: [Range<usize>; 2]| {
        panic::catch_unwind(AssertUnwindSafe(|| buffer.disjoint_mut(parts).len())).is_err()
    };
    assert!(panics([0..64, 63..70]));
    assert!(panics([0..64, 8..16]));
    assert!(panics([0..64, page()..page() + 8]));
    assert!(panics([0..64, page() - 8..2 * page() + 8]), "across a hole");
    assert!(panics([0..64, 4 * page()..4 * page() + 8]));
    assert!(!panics([64..128, 0..64]), "any order");
}

#[test]
fn poison_is_not_a_number_in_any_float() {
    let mut buffer = Cpu.reserve(bytes(page()), Pages::Small).unwrap();
    buffer.commit_all().unwrap();
    buffer.poison();
    assert!(buffer.as_slice::<f32>().iter().all(|value| value.is_nan()));
    assert!(
        buffer
            .as_slice::<u16>()
            .iter()
            .all(|bits| half::bf16::from_bits(*bits).is_nan())
    );
    assert!(
        buffer
            .as_slice::<u16>()
            .iter()
            .all(|bits| half::f16::from_bits(*bits).is_nan())
    );
}

#[test]
fn uncommitted_or_misaligned_views_panic() {
    let mut buffer = Cpu.reserve(bytes(4 * page()), Pages::Small).unwrap();
    let panics = |view: &dyn Fn() -> bool| panic::catch_unwind(AssertUnwindSafe(view)).is_err();
    assert!(panics(&|| buffer.as_slice::<u8>().is_empty()));
    buffer.commit(0..page()).unwrap();
    buffer.commit(2 * page()..3 * page()).unwrap();
    assert!(panics(&|| buffer.as_slice::<u8>().is_empty()));
    assert!(panics(&|| buffer.range::<u8>(page(), 1).is_empty()));
    assert!(panics(&|| buffer.range::<u8>(page() - 1, 2).is_empty()));
    assert!(panics(&|| {
        buffer.range::<u8>(0, 2 * page() + 1).is_empty()
    }));
    assert!(panics(&|| buffer.range::<f32>(2, 1).is_empty()));
    assert!(panics(&|| buffer.range::<u64>(0, usize::MAX).is_empty()));
    assert!(!panics(&|| buffer.range::<u8>(0, page()).is_empty()));
    assert!(!panics(&|| buffer.range::<u8>(2 * page(), 1).is_empty()));
    assert!(panics(&|| buffer.missing(&(1..page())).get() == 0));
    // A rank without a part of a tensor views nothing, wherever that would lie.
    assert!(!panics(&|| buffer.range::<f32>(page(), 0).is_empty()));
    assert!(buffer.range_mut::<u64>(4 * page(), 0).is_empty());
}

#[test]
fn an_absurd_reservation_is_refused() {
    for size in [u64::MAX, 1 << 60] {
        let size = Bytes::measured(size);
        let error = Cpu.reserve(size, Pages::Huge).unwrap_err();
        assert!(matches!(error, DeviceError::Reserve { .. }));
    }
}

#[test]
fn total_memory_is_at_least_what_runs_this_test() {
    assert!(Cpu.total_memory().unwrap() > bytes(16 << 20));
}
