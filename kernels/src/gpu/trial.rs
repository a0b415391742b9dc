//! Trials: one kernel on one set of sizes, against the CPU definition. Each op has its list
//! (`<op>/trials.rs`, gathered by `trials.rs` of the crate); the test program (`tests/gpu`) runs them
//! all on the emulator or on a card.

use plimsoll_planner::Dtype;

use super::{Gpu, GpuError, Memory};
use crate::encoding;
use crate::isa::Isa;
use crate::pool::Pool;
use crate::testing::Random;

/// Fails with what was found and what was wanted.
type Proof = dyn Fn(&Bench<'_>) -> Result<(), Failure>;

/// One claim about one op.
pub struct Trial {
    pub op: &'static str,
    pub name: String,
    prove: Box<Proof>,
}

impl std::fmt::Debug for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.op, self.name)
    }
}

impl Trial {
    pub(crate) fn new(
        op: &'static str,
        name: impl Into<String>,
        prove: impl Fn(&Bench<'_>) -> Result<(), Failure> + 'static,
    ) -> Trial {
        Trial {
            op,
            name: name.into(),
            prove: Box::new(prove),
        }
    }

    /// Runs it on a device.
    ///
    /// # Errors
    /// Says what was found and what was wanted.
    pub fn prove(&self, gpu: &Gpu) -> Result<(), Failure> {
        (self.prove)(&Bench { gpu })
    }
}

/// Card 0, to run trials on.
///
/// # Errors
/// When there is none, or the program was built without the driver.
pub fn card() -> Result<Gpu, GpuError> {
    #[cfg(feature = "driver")]
    return super::driver::Cuda::open(0).map(|cuda| cuda.gpu());
    #[cfg(not(feature = "driver"))]
    return Err(GpuError::NoDevice {
        reason: "built without the driver: add --features driver".to_owned(),
    });
}

/// What a trial ended in.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Gpu(#[from] GpuError),
    #[error("{0}")]
    Wrong(String),
}

impl Failure {
    /// Whether the card's context is lost with it: all that follows in this process would fail, too.
    pub const fn loses_card(&self) -> bool {
        matches!(self, Failure::Gpu(GpuError::Driver { .. }))
    }
}

/// Where a trial works: a device, and helpers that put numbers on it.
#[derive(Debug)]
pub struct Bench<'a> {
    pub gpu: &'a Gpu,
}

impl Bench<'_> {
    /// `values`, rounded to `dtype`, on the device.
    pub(crate) fn put(&self, dtype: Dtype, values: &[f32]) -> Result<Memory, GpuError> {
        let width = encoding::bytes_of(dtype);
        let mut bytes = vec![0u8; values.len() * width];
        for (at, value) in values.iter().enumerate() {
            encoding::store(dtype, &mut bytes, at * width, *value);
        }
        self.put_raw(&bytes)
    }

    /// Integers, or bytes as they are.
    pub(crate) fn put_raw<T: crate::element::Element>(
        &self,
        values: &[T],
    ) -> Result<Memory, GpuError> {
        let mut memory = self.gpu.allocate(size_of_val(values))?;
        memory.upload(values)?;
        Ok(memory)
    }

    /// Rows of `row` bytes each; one that is all poison counts as never written.
    pub(crate) fn put_rows(&self, bytes: &[u8], row: usize) -> Result<Memory, GpuError> {
        let mut memory = self.put_raw(bytes)?;
        for (at, bytes) in bytes.chunks(row).enumerate() {
            if bytes.iter().all(|byte| *byte == 0xFF) {
                memory.forget(at * row, bytes.len());
            }
        }
        Ok(memory)
    }

    /// Room for `count` numbers: poison, which counts as never written.
    pub(crate) fn room(&self, dtype: Dtype, count: usize) -> Result<Memory, GpuError> {
        let bytes = vec![0xFFu8; count * encoding::bytes_of(dtype)];
        let mut memory = self.put_raw(&bytes)?;
        memory.forget(0, bytes.len());
        Ok(memory)
    }

    /// The first `count` numbers of `memory`, as f32.
    pub(crate) fn take(
        &self,
        memory: &Memory,
        dtype: Dtype,
        count: usize,
    ) -> Result<Vec<f32>, GpuError> {
        let width = encoding::bytes_of(dtype);
        let bytes: Vec<u8> = memory.download(count * width)?;
        Ok((0..count)
            .map(|at| encoding::load(dtype, &bytes, at * width))
            .collect())
    }
}

/// The float types, with their names in kernels.
pub(crate) const DTYPES: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::BFloat16];

/// `values` rounded to `dtype` and back: what the CPU definition is given.
pub(crate) fn rounded(dtype: Dtype, values: &[f32]) -> Vec<f32> {
    let mut bytes = [0u8; 4];
    values
        .iter()
        .map(|value| {
            encoding::store(dtype, &mut bytes, 0, *value);
            encoding::load(dtype, &bytes, 0)
        })
        .collect()
}

/// What one rounding of `value` to `dtype` loses at most: half a unit in the last place, and of
/// numbers too small for a full mantissa half of the smallest step.
pub(crate) fn rounding(dtype: Dtype, value: f32) -> f32 {
    let (relative, smallest) = match dtype {
        Dtype::Float32 => (6.0e-8, 1.0e-45),
        Dtype::Float16 => (4.89e-4, 2.99e-8),
        Dtype::BFloat16 => (3.91e-3, 4.7e-41),
    };
    (value.abs() * relative).max(smallest)
}

/// |got - wanted| <= tolerance for every number; not-a-number is never close.
pub(crate) fn close(
    what: &str,
    got: &[f32],
    wanted: &[f32],
    tolerance: impl Fn(usize) -> f32,
) -> Result<(), Failure> {
    if got.len() != wanted.len() {
        return Err(Failure::Wrong(format!(
            "{what}: {} of {}",
            got.len(),
            wanted.len()
        )));
    }
    for (at, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let (error, allowed) = ((got - wanted).abs(), tolerance(at));
        if error.is_nan() || error > allowed {
            return Err(Failure::Wrong(format!(
                "{what}: number {at} is {got}, should be {wanted}; off by {error:e}, allowed {allowed:e}"
            )));
        }
    }
    Ok(())
}

/// Equal to the bit, in whatever they are.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    got: &[T],
    wanted: &[T],
) -> Result<(), Failure> {
    if got.len() != wanted.len() {
        return Err(Failure::Wrong(format!(
            "{what}: {} of {}",
            got.len(),
            wanted.len()
        )));
    }
    match got.iter().zip(wanted).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => Err(Failure::Wrong(format!(
            "{what}: number {at} is {:?}, should be {:?}",
            got[at], wanted[at]
        ))),
    }
}

/// Fails unless a launcher answered with this very error.
pub(crate) fn refused<T>(
    what: &str,
    answer: Result<T, GpuError>,
    is_right: impl Fn(&GpuError) -> bool,
) -> Result<(), Failure> {
    match answer {
        Err(error) if is_right(&error) => Ok(()),
        Err(error) => Err(Failure::Wrong(format!(
            "{what}: refused, but with: {error}"
        ))),
        Ok(_) => Err(Failure::Wrong(format!("{what}: was launched"))),
    }
}

/// A pool for the CPU definition: one thread, the plainest instructions.
pub(crate) fn pool() -> Pool {
    Pool::new(1, Isa::Scalar).unwrap_or_else(|error| panic!("a pool of one thread: {error}"))
}

/// Seeded numbers that differ from trial to trial.
pub(crate) fn random(seed: usize) -> Random {
    Random::new(seed as u64)
}
