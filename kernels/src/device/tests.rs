//! Addresses stay, pages come and go, and nothing uncommitted can be read.
#![expect(clippy::cast_possible_truncation, reason = "test sizes are small")]

use std::panic::{self, AssertUnwindSafe};

use super::*;

fn bytes(count: u64) -> Bytes {
    Bytes::measured(count)
}

fn page() -> u64 {
    Cpu.granularity().get()
}

#[test]
fn resident_equals_committed_and_discard_gives_it_back_at_the_same_address() {
    for pages in [Pages::Small, Pages::Huge] {
        let mut buffer = Cpu.reserve(bytes(64 << 20), pages).unwrap();
        let address = buffer.address();
        assert_eq!(buffer.resident().unwrap(), Bytes::ZERO);
        for step in [page(), 3 * page(), 5 << 20, (33 << 20) + page(), 64 << 20] {
            buffer.commit_to(bytes(step)).unwrap();
            assert_eq!(buffer.resident().unwrap(), bytes(step));
            assert_eq!(
                (buffer.address(), buffer.committed()),
                (address, bytes(step))
            );
        }
        buffer.as_mut_slice::<u32>().fill(7);
        buffer.discard().unwrap();
        assert_eq!(buffer.resident().unwrap(), Bytes::ZERO);
        assert_eq!(
            (buffer.address(), buffer.committed()),
            (address, Bytes::ZERO)
        );
        buffer.commit().unwrap();
        assert_eq!(buffer.resident().unwrap(), bytes(64 << 20));
        assert!(
            buffer.as_slice::<u32>().iter().all(|value| *value == 0),
            "pages come back zeroed"
        );
    }
}

#[test]
fn a_cut_keeps_addresses_and_committed_bytes_in_order() {
    let mut rest = Cpu.reserve(bytes(10 * page()), Pages::Small).unwrap();
    let address = rest.address();
    rest.commit_to(bytes(4 * page())).unwrap();
    rest.range_mut::<u8>(0, 4 * page() as usize).fill(9);
    let mut front = rest.split_to(bytes(3 * page() + 64));
    assert_eq!(front.address(), address);
    assert_eq!(rest.address(), address + front.capacity().get() as usize);
    assert_eq!(front.committed(), front.capacity());
    assert_eq!(rest.committed(), bytes(page() - 64));
    // The page at the cut belongs to both: the neighbour keeps its bytes.
    front.discard().unwrap();
    assert!(
        rest.range::<u8>(0, page() as usize - 64)
            .iter()
            .all(|byte| *byte == 9)
    );
    drop(front);
    rest.commit().unwrap();
    assert_eq!(rest.committed(), rest.capacity());
}

#[test]
fn poison_is_not_a_number_in_any_float() {
    let mut buffer = Cpu.reserve(bytes(page()), Pages::Small).unwrap();
    buffer.commit().unwrap();
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
    buffer.commit_to(bytes(page())).unwrap();
    assert!(panics(&|| buffer.as_slice::<u8>().is_empty()));
    assert!(panics(&|| buffer
        .range::<u8>(page() as usize, 1)
        .is_empty()));
    assert!(panics(&|| buffer.range::<f32>(2, 1).is_empty()));
    assert!(panics(&|| buffer.range::<u64>(0, usize::MAX).is_empty()));
    assert!(!panics(&|| buffer
        .range::<u8>(0, page() as usize)
        .is_empty()));
}

#[test]
fn an_absurd_reservation_is_refused() {
    for size in [u64::MAX, 1 << 60] {
        let error = Cpu.reserve(bytes(size), Pages::Huge).unwrap_err();
        assert!(matches!(error, DeviceError::Reserve { .. }));
    }
}

#[test]
fn total_memory_is_at_least_what_runs_this_test() {
    assert!(Cpu.total_memory().unwrap() > bytes(16 << 20));
}
