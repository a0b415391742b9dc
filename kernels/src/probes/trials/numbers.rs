//! Conversions, over every number of 16 bits and what lies between two of them; approximations;
//! arithmetic that must round where it says so.

use half::{bf16, f16};
use plimsoll_planner::Dtype;

use super::{OP, launch, room, threads_for, words};
use crate::gpu::trial::{Bench, DTYPES, Failure, Trial, random, same};
use crate::gpu::{Arguments, Kind};

const HALVES: [Dtype; 2] = [Dtype::Float16, Dtype::BFloat16];
/// What a card makes of every not-a-number.
const NAN: u16 = 0x7fff;

pub(super) fn all() -> Vec<Trial> {
    let mut trials = vec![
        Trial::new(OP, "powers of two and inverse roots, nearly", approximate),
        Trial::new(OP, "arithmetic that rounds after each step", rounded),
        Trial::new(OP, "bits", bits),
    ];
    for dtype in HALVES {
        let name = format!("every {dtype} becomes the f32 it is");
        trials.push(Trial::new(OP, name, move |bench| widen(bench, dtype)));
        let name = format!("f32 becomes the nearest {dtype}, ties go to even");
        trials.push(Trial::new(OP, name, move |bench| narrow(bench, dtype)));
    }
    for dtype in DTYPES {
        let name = format!("eight {dtype} at a time");
        trials.push(Trial::new(OP, name, move |bench| eight(bench, dtype)));
    }
    trials
}

fn widened(dtype: Dtype, bits: u16) -> f32 {
    match dtype {
        Dtype::Float16 => f16::from_bits(bits).to_f32(),
        _ => bf16::from_bits(bits).to_f32(),
    }
}

fn narrowed(dtype: Dtype, value: f32) -> u16 {
    match dtype {
        _ if value.is_nan() => NAN,
        Dtype::Float16 => f16::from_f32(value).to_bits(),
        _ => bf16::from_f32(value).to_bits(),
    }
}

/// The same number; not-a-number whatever its bits.
fn same_numbers(what: &str, got: &[u32], wanted: &[f32]) -> Result<(), Failure> {
    let plain = |bits: u32| match f32::from_bits(bits).is_nan() {
        true => f32::NAN.to_bits(),
        false => bits,
    };
    let got: Vec<u32> = got.iter().map(|bits| plain(*bits)).collect();
    let wanted: Vec<u32> = wanted.iter().map(|v| plain(v.to_bits())).collect();
    same(what, &got, &wanted)
}

fn widen(bench: &Bench<'_>, dtype: Dtype) -> Result<(), Failure> {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let wanted: Vec<f32> = all.iter().map(|bits| widened(dtype, *bits)).collect();
    let (count, suffix) = (all.len(), Kind::suffix(dtype));
    let bytes: Vec<u8> = all.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let kernel = format!("to_float_{suffix}");
    let got = words(
        bench,
        &kernel,
        threads_for(count),
        &bytes,
        count,
        Some(count),
    )?;
    same_numbers("one by one", &got, &wanted)?;
    let (kernel, pairs) = (format!("unpack_{suffix}"), count / 2);
    let got = words(
        bench,
        &kernel,
        threads_for(pairs),
        &bytes,
        count,
        Some(pairs),
    )?;
    same_numbers("in pairs", &got, &wanted)
}

fn narrow(bench: &Bench<'_>, dtype: Dtype) -> Result<(), Failure> {
    // Each number itself, the middle between it and the next (a tie), and what lies just below and
    // just above that middle.
    let mut values = Vec::new();
    for bits in 0..=u16::MAX {
        let (this, next) = (widened(dtype, bits), widened(dtype, bits.wrapping_add(1)));
        let middle = this / 2.0 + next / 2.0;
        let beside = |step: i32| f32::from_bits(middle.to_bits().wrapping_add_signed(step));
        values.extend([this, middle, beside(-1), beside(1)]);
    }
    // Around the ties between the largest number and infinity.
    for tie in [65520f32.to_bits(), 0x7f7f_8000] {
        values.extend([tie - 1, tie, tie + 1, tie | 1 << 31].map(f32::from_bits));
    }
    values.extend([f32::MAX, f32::MIN]);
    let wanted: Vec<u16> = values.iter().map(|v| narrowed(dtype, *v)).collect();
    let (count, suffix) = (values.len(), Kind::suffix(dtype));
    let (input, mut out) = (bench.put_raw(&values)?, bench.room(dtype, count)?);
    for (kernel, things) in [("from_float", count), ("pack", count / 2)] {
        out.forget(0, count * 2);
        let arguments = Arguments::new()
            .write(&out.view_mut(Kind::U8))
            .read(input.view(Kind::F32))
            .u32(u32::try_from(things).unwrap_or(u32::MAX));
        launch(
            bench,
            &format!("{kernel}_{suffix}"),
            threads_for(things),
            arguments,
        )?;
        let bytes: Vec<u8> = out.download(count * 2)?;
        let got: Vec<u16> = bytes
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .collect();
        same(kernel, &got, &wanted)?;
    }
    Ok(())
}

fn eight(bench: &Bench<'_>, dtype: Dtype) -> Result<(), Failure> {
    const COUNT: usize = 8 * 37;
    let values = random(1).values(COUNT);
    let input = bench.put(dtype, &values)?;
    let (mut out, mut doubled) = (bench.room(dtype, COUNT)?, bench.room(dtype, COUNT)?);
    let kind = Kind::Number(dtype);
    let arguments = Arguments::new()
        .write(&out.view_mut(kind))
        .write(&doubled.view_mut(kind))
        .read(input.view(kind))
        .u32(37);
    let kernel = format!("eight_{}", Kind::suffix(dtype));
    launch(bench, &kernel, threads_for(37), arguments)?;
    let wanted = bench.take(&input, dtype, COUNT)?;
    same("as they are", &bench.take(&out, dtype, COUNT)?, &wanted)?;
    let wanted: Vec<f32> = wanted.iter().map(|v| v * 2.0).collect();
    same("doubled", &bench.take(&doubled, dtype, COUNT)?, &wanted)
}

fn approximate(bench: &Bench<'_>) -> Result<(), Failure> {
    let mut values = vec![0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    values.extend([127.5, -125.5, -126.0, -127.0, -150.0, -200.0, 128.0]);
    values.extend(random(2).values(500).iter().map(|v| v * 126.0));
    let count = values.len();
    let input = bench.put_raw(&values)?;
    let (mut powers, mut roots) = (room(bench, count)?, room(bench, count)?);
    let arguments = Arguments::new()
        .write(&powers.view_mut(Kind::F32))
        .write(&roots.view_mut(Kind::F32))
        .read(input.view(Kind::F32))
        .u32(u32::try_from(count).unwrap_or(u32::MAX));
    launch(bench, "approximate", threads_for(count), arguments)?;
    let (powers, roots) = (
        powers.download::<f32>(count)?,
        roots.download::<f32>(count)?,
    );
    for (at, value) in values.iter().enumerate() {
        let exact = f64::from(*value);
        // ex2.approx: 2^-22; what is subnormal may be zero. rsqrtf: two units in the last place.
        near("power", *value, powers[at], exact.exp2(), 2.4e-7, 1.2e-38)?;
        near(
            "root",
            *value,
            roots[at],
            exact.abs().sqrt().recip(),
            2.4e-7,
            0.0,
        )?;
    }
    Ok(())
}

fn near(
    what: &str,
    of: f32,
    got: f32,
    exact: f64,
    relative: f64,
    absolute: f64,
) -> Result<(), Failure> {
    let (wide, is_huge) = (f64::from(got), exact > f64::from(f32::MAX));
    let is_near = match () {
        () if exact.is_nan() => got.is_nan(),
        () if is_huge => got == f32::INFINITY,
        () => (wide - exact).abs() <= exact.abs() * relative + absolute,
    };
    match is_near {
        true => Ok(()),
        false => Err(Failure::Wrong(format!(
            "{what} of {of} is {got}, exactly {exact}"
        ))),
    }
}

fn rounded(bench: &Bench<'_>) -> Result<(), Failure> {
    const COUNT: usize = 1000;
    let input = random(3).values(3 * COUNT);
    // Where the product is added to its own negative, a contracted sum shows what it did not round.
    let input: Vec<f32> = input
        .chunks_exact(3)
        .flat_map(|v| [v[0], v[1], if v[2] > 0.0 { -(v[0] * v[1]) } else { v[2] }])
        .collect();
    let size = threads_for(COUNT);
    let got = words(bench, "rounded", size, &input, 3 * COUNT, Some(COUNT))?;
    let wanted: Vec<f32> = input
        .chunks_exact(3)
        .flat_map(|v| [v[0] * v[1] + v[2], v[0] * v[1] - v[2], v[0] / v[1]])
        .collect();
    same_numbers("sum, difference, quotient", &got, &wanted)
}

fn bits(bench: &Bench<'_>) -> Result<(), Failure> {
    let mut input = vec![0u32, 1, 2, 3, 0x8000_0000, u32::MAX, 0x7fff_ffff, 0x10000];
    let mut random = random(4);
    input.extend((0..100).map(|_| (random.word() >> 32) as u32));
    let count = input.len();
    let got = words(
        bench,
        "bits",
        threads_for(count),
        &input,
        6 * count,
        Some(count),
    )?;
    let wanted: Vec<u32> = input
        .iter()
        .flat_map(|v| {
            let first = match v {
                0 => 0,
                _ => v.trailing_zeros() + 1,
            };
            let upper = ((u64::from(*v) * u64::from(*v)) >> 32) as u32;
            let bytes = [v.to_le_bytes(), (!v).to_le_bytes()].concat();
            let ordered = [0, 4, 8, 12].map(|bit| bytes[(v >> bit & 7) as usize]);
            let ordered = u32::from_le_bytes(ordered);
            [v.count_ones(), first, v.leading_zeros(), upper, *v, ordered]
        })
        .collect();
    same(
        "ones, first, zeros above, square, itself, bytes",
        &got,
        &wanted,
    )
}
