//! Tables against the formula in f64, and the shape of the scalings.

use super::*;

#[test]
fn tables_hold_the_formula() {
    let pool = Pool::new(2, crate::isa::Isa::Scalar).unwrap();
    for (head_dim, positions) in [(2, 97), (16, 1), (64, 97), (80, 255), (128, 700)] {
        let half = head_dim / 2;
        let params = RopeParams {
            theta: 10_000.0,
            scaling: RopeScaling::Default,
        };
        let mut cos = vec![f32::NAN; half * positions];
        let mut sin = cos.clone();
        table(&pool, &params, head_dim, &mut cos, &mut sin);
        for position in 0..positions {
            for i in 0..half {
                let angle = position as f64 * 10_000f64.powf(-2.0 * i as f64 / head_dim as f64);
                // An f32 frequency times 96: the angle is off by at most two roundings.
                let tolerance = angle * 2.0 * f64::from(f32::EPSILON) + 1e-7;
                let at = position * half + i;
                assert!((f64::from(cos[at]) - angle.cos()).abs() <= tolerance);
                assert!((f64::from(sin[at]) - angle.sin()).abs() <= tolerance);
            }
        }
    }
}

#[test]
fn linear_scaling_divides_every_frequency() {
    let plain = RopeParams {
        theta: 1e6,
        scaling: RopeScaling::Default,
    };
    let scaled = RopeParams {
        theta: 1e6,
        scaling: RopeScaling::Linear { factor: 4.0 },
    };
    for i in 0..32 {
        assert_eq!(frequency(&scaled, i, 64), frequency(&plain, i, 64) / 4.0);
    }
}

#[test]
fn llama3_scaling_keeps_high_divides_low_and_ramps_between() {
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    };
    let plain = RopeParams {
        theta: 500_000.0,
        scaling: RopeScaling::Default,
    };
    let scaled = RopeParams {
        theta: 500_000.0,
        scaling,
    };
    let ratio = |i| frequency(&plain, i, 128) / frequency(&scaled, i, 128);
    assert_eq!(ratio(0), 1.0);
    assert_eq!(ratio(63), 8.0);
    let ratios: Vec<f32> = (0..64).map(ratio).collect();
    assert!(ratios.is_sorted());
    // wavelength(i) = 2 pi 500000^(i/64) crosses 8192/4 and 8192/1 at i = 28.2 and 35.0
    assert_eq!(
        ratios
            .iter()
            .filter(|ratio| **ratio > 1.0 && **ratio < 8.0)
            .count(),
        6
    );
}
