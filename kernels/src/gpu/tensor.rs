//! Memory of a device, and borrowed views of it that say what kind of numbers lie there.

use std::marker::PhantomData;
use std::rc::Rc;

use plimsoll_planner::Dtype;

use super::{Backend, GpuError};
use crate::element::Element;

/// What lies in a piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Number(Dtype),
    U8,
    U32,
    U64,
}

impl Kind {
    pub const F32: Kind = Kind::Number(Dtype::Float32);

    pub const fn bytes(self) -> usize {
        match self {
            Kind::Number(dtype) => crate::encoding::bytes_of(dtype),
            Kind::U8 => 1,
            Kind::U32 => 4,
            Kind::U64 => 8,
        }
    }
}

impl Kind {
    /// The suffix of kernels for a float type.
    pub const fn suffix(dtype: Dtype) -> &'static str {
        match dtype {
            Dtype::Float32 => "f32",
            Dtype::Float16 => "f16",
            Dtype::BFloat16 => "bf16",
        }
    }
}

/// Owned device memory.
#[derive(Debug)]
pub struct Memory {
    backend: Rc<dyn Backend>,
    address: u64,
    bytes: usize,
}

impl Memory {
    pub(super) fn new(backend: &Rc<dyn Backend>, bytes: usize) -> Result<Memory, GpuError> {
        Ok(Memory {
            address: backend.allocate(bytes.max(1))?,
            backend: Rc::clone(backend),
            bytes,
        })
    }

    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `values` to the front.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn upload<T: Element>(&mut self, values: &[T]) -> Result<(), GpuError> {
        let bytes = crate::element::bytes_of(values);
        assert!(
            bytes.len() <= self.bytes,
            "{} bytes into {}",
            bytes.len(),
            self.bytes
        );
        self.backend.write(self.address, bytes)
    }

    /// The numbers at the front, once all launches are through.
    ///
    /// # Errors
    /// When the device, or a launch before, fails.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn download<T: Element + Default>(&self, count: usize) -> Result<Vec<T>, GpuError> {
        let mut values = vec![T::default(); count];
        let bytes = crate::element::bytes_of_mut(&mut values);
        assert!(
            bytes.len() <= self.bytes,
            "{} bytes out of {}",
            bytes.len(),
            self.bytes
        );
        self.backend.read(self.address, bytes)?;
        Ok(values)
    }

    /// Bytes from byte `first` on count as never written: the emulator reports a kernel that reads
    /// them.
    ///
    /// # Panics
    /// When they are not all there.
    pub fn forget(&mut self, first: usize, bytes: usize) {
        assert!(
            first
                .checked_add(bytes)
                .is_some_and(|end| end <= self.bytes),
            "bytes {first}.. {bytes} of {}",
            self.bytes
        );
        self.backend.forget(self.address + first as u64, bytes);
    }

    /// All of it, to read.
    pub const fn view(&self, kind: Kind) -> Tensor<'_> {
        Tensor {
            address: self.address,
            count: self.bytes / kind.bytes(),
            kind,
            memory: PhantomData,
        }
    }

    /// All of it, to write.
    pub const fn view_mut(&mut self, kind: Kind) -> TensorMut<'_> {
        TensorMut(Tensor {
            address: self.address,
            count: self.bytes / kind.bytes(),
            kind,
            memory: PhantomData,
        })
    }

    /// The first `count` numbers, to write: what a launcher gets that must stay inside of them.
    ///
    /// # Panics
    /// When they are not all there.
    #[cfg(feature = "gpu-tests")]
    pub(crate) fn front_mut(&mut self, kind: Kind, count: usize) -> TensorMut<'_> {
        TensorMut(self.view(kind).part(0, count))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.backend.free(self.address);
    }
}

/// Numbers in device memory, to read. Dense, in row-major order of the shape its reader says.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    address: u64,
    count: usize,
    kind: Kind,
    memory: PhantomData<&'a Memory>,
}

/// Numbers in device memory, to write: the only view of them while it lives.
#[derive(Debug)]
pub struct TensorMut<'a>(Tensor<'a>);

impl<'a> Tensor<'a> {
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// How many numbers.
    pub const fn count(&self) -> usize {
        self.count
    }

    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The float type; None for integers.
    pub const fn dtype(&self) -> Option<Dtype> {
        match self.kind {
            Kind::Number(dtype) => Some(dtype),
            Kind::U8 | Kind::U32 | Kind::U64 => None,
        }
    }

    /// `count` numbers from number `first` on.
    ///
    /// # Panics
    /// When they are not all there.
    pub fn part(&self, first: usize, count: usize) -> Tensor<'a> {
        assert!(
            first
                .checked_add(count)
                .is_some_and(|end| end <= self.count),
            "numbers {first}.. {count} of {}",
            self.count
        );
        Tensor {
            address: self.address + (first * self.kind.bytes()) as u64,
            count,
            ..*self
        }
    }

    /// Checks that this is `what`: at least `count` numbers of `kind` at a multiple of `align` bytes.
    ///
    /// # Errors
    /// Otherwise, with both sides.
    pub fn check(
        &self,
        op: &'static str,
        what: &'static str,
        kind: Kind,
        count: usize,
        align: u64,
    ) -> Result<(), GpuError> {
        let wrong = |has: String, needs: String| GpuError::Shape {
            op,
            what,
            has,
            needs,
        };
        if self.kind != kind {
            return Err(wrong(format!("{:?}", self.kind), format!("{kind:?}")));
        }
        if self.count < count {
            return Err(wrong(format!("{} numbers", self.count), count.to_string()));
        }
        if !self.address.is_multiple_of(align) {
            return Err(wrong(
                format!("address {:#x}", self.address),
                format!("a multiple of {align}"),
            ));
        }
        Ok(())
    }
}

impl<'a> TensorMut<'a> {
    /// The same numbers, to read.
    pub const fn as_tensor(&self) -> Tensor<'_> {
        self.0
    }

    pub const fn address(&self) -> u64 {
        self.0.address
    }

    /// `count` numbers from number `first` on.
    ///
    /// # Panics
    /// When they are not all there.
    pub fn part(&mut self, first: usize, count: usize) -> TensorMut<'_> {
        TensorMut(self.0.part(first, count))
    }

    /// As [`Tensor::check`].
    ///
    /// # Errors
    /// As [`Tensor::check`].
    pub fn check(
        &self,
        op: &'static str,
        what: &'static str,
        kind: Kind,
        count: usize,
        align: u64,
    ) -> Result<(), GpuError> {
        self.0.check(op, what, kind, count, align)
    }
}
