//! Every operation of every instruction set that this machine has, against the scalar one.

use half::{bf16, f16};

use super::scalar::Scalar;
use super::*;
use crate::isa::Isa;
use crate::testing::Random;

/// Awkward numbers: signs, zeros, subnormals, ties, infinities, not-a-numbers.
const AWKWARD: [f32; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    2.5,
    3.5,
    1e-40,
    -1e-44,
    f32::MAX,
    f32::MIN_POSITIVE,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    65_519.9,
    1.003_906_2,
    1.011_718_7,
];

struct Compare<'a> {
    a: &'a [f32; LANES],
    b: &'a [f32; LANES],
}

impl Work for Compare<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let out = |v: S::V| {
            let mut lanes = [0.0; LANES];
            s.store(v, &mut lanes);
            lanes
        };
        let (a, b) = (s.load(self.a), s.load(self.b));
        let (x, y) = (*self.a, *self.b);
        let same = |got: [f32; LANES], want: [f32; LANES], what: &str| {
            for (got, want) in got.iter().zip(&want) {
                let equal = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                assert!(equal, "{what}: {got} is not {want} ({x:?}, {y:?})");
            }
        };
        same(out(s.add(a, b)), Scalar.add(x, y), "add");
        same(out(s.sub(a, b)), Scalar.sub(x, y), "sub");
        same(out(s.mul(a, b)), Scalar.mul(x, y), "mul");
        same(out(s.div(a, b)), Scalar.div(x, y), "div");
        same(out(s.max(a, b)), Scalar.max(x, y), "max");
        same(out(s.min(a, b)), Scalar.min(x, y), "min");
        same(out(s.round(a)), Scalar.round(x), "round");
        same(
            out(s.select_lt(a, b, a, b)),
            Scalar.select_lt(x, y, x, y),
            "select",
        );
        same(out(s.splat(x[3])), [x[3]; LANES], "splat");
        let whole = x.map(|x| {
            if x.is_finite() {
                (x % 126.0).round()
            } else {
                0.0
            }
        });
        same(out(s.pow2(s.load(&whole))), Scalar.pow2(whole), "pow2");
        same([s.sum(a); LANES], [Scalar.sum(x); LANES], "sum");
        for dtype in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
            let (mut got, mut want) = ([0; 64], [0; 64]);
            s.store_as(a, dtype, &mut got);
            Scalar.store_as(x, dtype, &mut want);
            let load = Scalar.load_as(dtype, &want);
            same(Scalar.load_as(dtype, &got), load, "store");
            same(out(s.load_as(dtype, &want)), load, "load");
        }
        let mut pairs = [0; 64];
        for lane in 0..LANES {
            pairs[4 * lane..][..2].copy_from_slice(&bf16::from_f32(x[lane]).to_le_bytes());
            pairs[4 * lane + 2..][..2].copy_from_slice(&bf16::from_f32(y[lane]).to_le_bytes());
        }
        let (first, second) = s.split_bf16(s.load_bits(&pairs));
        same(
            out(first),
            x.map(|x| bf16::from_f32(x).to_f32()),
            "bf16 pairs",
        );
        same(
            out(second),
            y.map(|y| bf16::from_f32(y).to_f32()),
            "bf16 pairs",
        );
        for lane in 0..LANES {
            pairs[4 * lane..][..2].copy_from_slice(&f16::from_f32(x[lane]).to_le_bytes());
            pairs[4 * lane + 2..][..2].copy_from_slice(&f16::from_f32(y[lane]).to_le_bytes());
        }
        let (first, second) = s.split_f16(s.load_bits(&pairs));
        same(
            out(first),
            x.map(|x| f16::from_f32(x).to_f32()),
            "f16 pairs",
        );
        same(
            out(second),
            y.map(|y| f16::from_f32(y).to_f32()),
            "f16 pairs",
        );
        let table = std::array::from_fn(|i| [1.5, -104.0][i % 2] * i as f32);
        for shift in [0, 4, 12, 27, 28] {
            let got = out(s.nibble(a, shift, -8.0));
            same(got, Scalar.nibble(x, shift, -8.0), "nibble");
            let got = out(s.lookup(a, shift, &table));
            same(got, Scalar.lookup(x, shift, &table), "lookup");
            for field in [1, 3, 15] {
                let got = out(s.bits(a, shift, field));
                same(got, Scalar.bits(x, shift, field), "bits");
            }
        }
        let bytes = x.map(|x| x.to_bits().to_le_bytes()[3]);
        same(
            out(s.load_i8(&bytes)),
            Scalar.load_i8(&bytes),
            "signed bytes",
        );
        for (got, want) in [
            (s.signed_byte::<0>(a), Scalar.signed_byte::<0>(x)),
            (s.signed_byte::<1>(a), Scalar.signed_byte::<1>(x)),
            (s.signed_byte::<2>(a), Scalar.signed_byte::<2>(x)),
            (s.signed_byte::<3>(a), Scalar.signed_byte::<3>(x)),
        ] {
            same(out(got), want, "a byte of a word");
        }
        let small = x.map(|x| if x.abs() <= 127.0 { x } else { 0.5 });
        let (mut bytes, mut expected) = ([0; LANES], [0; LANES]);
        s.store_i8(s.load(&small), &mut bytes);
        Scalar.store_i8(small, &mut expected);
        assert_eq!(bytes, expected, "{small:?}");
        let rounded = |l: usize| f32::from(bytes[l].cast_signed()) == small[l].round_ties_even();
        assert!((0..LANES).all(rounded), "{small:?} as {bytes:?}");
        same(out(s.twice(a)[0]), Scalar.twice(x)[0], "the low half twice");
        same(
            out(s.twice(a)[1]),
            Scalar.twice(x)[1],
            "the high half twice",
        );
        same(out(s.unzip(a, b).0), Scalar.unzip(x, y).0, "even lanes");
        same(out(s.unzip(a, b).1), Scalar.unzip(x, y).1, "odd lanes");
        if x.iter().all(|x| x.is_finite()) {
            same([s.largest(a); LANES], [Scalar.largest(x); LANES], "largest");
            for (lane, got) in out(s.fma(a, b, a)).into_iter().enumerate() {
                let exact = f64::from(x[lane]) * f64::from(y[lane]) + f64::from(x[lane]);
                let bound = 1e-7 * (f64::from(x[lane] * y[lane]).abs() + f64::from(x[lane]).abs());
                assert!((f64::from(got) - exact).abs() <= bound + 1e-37, "fma");
            }
        }
        same(
            out(s.load_part(&x[..5])),
            std::array::from_fn(|l| if l < 5 { x[l] } else { 0.0 }),
            "",
        );
        let mut part = [7.0; 3];
        s.store_part(a, &mut part);
        same(
            std::array::from_fn(|l| part[l % 3]),
            std::array::from_fn(|l| x[l % 3]),
            "part",
        );
    }
}

#[test]
fn every_operation_equals_the_scalar_one() {
    let mut random = Random::new(11);
    for isa in Isa::available() {
        dispatch(
            isa,
            Compare {
                a: &AWKWARD,
                b: &[1.0; LANES],
            },
        );
        for _ in 0..200 {
            let a: [f32; LANES] = std::array::from_fn(|_| random.value() * 100.0);
            let b: [f32; LANES] = std::array::from_fn(|_| random.value());
            dispatch(isa, Compare { a: &a, b: &b });
            let mut mixed = AWKWARD;
            random.shuffle(&mut mixed);
            dispatch(
                isa,
                Compare {
                    a: &mixed,
                    b: &AWKWARD,
                },
            );
        }
    }
}

struct Transpose;

impl Work for Transpose {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cell = |r: usize, c: usize| (r * LANES + c) as f32;
        let mut rows: [S::V; LANES] =
            std::array::from_fn(|r| s.load(&std::array::from_fn(|c| cell(r, c))));
        s.transpose(&mut rows);
        for (r, row) in rows.into_iter().enumerate() {
            let mut lanes = [0.0; LANES];
            s.store(row, &mut lanes);
            assert_eq!(lanes, std::array::from_fn(|c| cell(c, r)));
        }
    }
}

/// Sixteen rows, and the sums of their lanes as the scalar instructions have them.
struct SumRows<'a>(&'a [[f32; LANES]; LANES], &'a [f32; LANES]);

impl Work for SumRows<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let four = |r: usize| std::array::from_fn(|i| s.load(&self.0[r + i]));
        let quads = [0, 4, 8, 12].map(|r| s.sum_quads(four(r)));
        let mut lanes = [0.0; LANES];
        s.store(s.add_quads(quads), &mut lanes);
        assert_eq!(lanes, *self.1);
    }
}

#[test]
fn rows_are_summed_across_lanes_by_one_tree_on_every_instruction_set() {
    let mut random = Random::new(12);
    for _ in 0..50 {
        let rows: [[f32; LANES]; LANES] =
            std::array::from_fn(|_| std::array::from_fn(|_| random.value()));
        let sums = rows.map(|row| {
            let quad = |q: usize| (row[q] + row[q + 2]) + (row[q + 1] + row[q + 3]);
            (quad(0) + quad(4)) + (quad(8) + quad(12))
        });
        for isa in Isa::available() {
            dispatch(isa, SumRows(&rows, &sums));
        }
    }
}

#[test]
fn transpose_swaps_rows_and_lanes() {
    for isa in Isa::available() {
        dispatch(isa, Transpose);
    }
}

struct Exp<'a>(&'a [f32], &'a mut Vec<f32>);

impl Work for Exp<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for x in self.0.as_chunks::<LANES>().0 {
            let mut lanes = [0.0; LANES];
            s.store(s.exp(s.load(x)), &mut lanes);
            self.1.extend(lanes);
        }
    }
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    let x: Vec<f32> = (0..1 << 16)
        .map(|i| -87.3 + i as f32 * (175.6 / 65536.0))
        .collect();
    for isa in Isa::available() {
        let mut got = Vec::new();
        dispatch(isa, Exp(&x, &mut got));
        for (x, got) in x.iter().zip(&got) {
            let exact = f64::from(*x).exp();
            let error = (f64::from(*got) - exact).abs() / exact;
            // The scalar lanes round the reduced argument once more.
            let allowed = if isa == Isa::Scalar { 8.0 } else { 2.0 };
            assert!(
                error <= allowed * f64::from(f32::EPSILON),
                "{isa}: exp({x}) = {got}, {error:e}"
            );
        }
        let mut edge = Vec::new();
        let x = [
            f32::NEG_INFINITY,
            -88.0,
            -1e30,
            f32::NAN,
            0.0,
            89.0,
            1e30,
            f32::INFINITY,
        ];
        dispatch(isa, Exp(&[x, x].concat(), &mut edge));
        assert_eq!(edge[..3], [0.0; 3]);
        assert!(edge[3].is_nan());
        assert_eq!(edge[4], 1.0);
        assert!(
            edge[5..8].iter().all(|e| *e > 2e38 && e.is_finite()),
            "{isa}: {edge:?}"
        );
    }
}
