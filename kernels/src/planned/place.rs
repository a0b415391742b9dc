//! A region of a plan as memory of its own, and poison behind it.

use plimsoll_planner::scratch::Region;

use crate::element::Element;
use crate::gpu::trial::{Bench, Failure, refused, same};
use crate::gpu::{GpuError, Kind, Memory, Tensor, TensorMut};

/// Bytes that must stay: more than any access of a kernel is wide.
const BEHIND: usize = 512;

#[derive(Debug)]
pub(super) struct Place {
    name: &'static str,
    memory: Memory,
    bytes: usize,
}

impl Place {
    /// Nothing of it counts as written.
    pub(super) fn new(bench: &Bench<'_>, name: &'static str, bytes: u64) -> Result<Place, Failure> {
        let bytes = usize::try_from(bytes)
            .map_err(|_| Failure::Wrong(format!("{name}: {bytes} bytes of a trial")))?;
        let mut memory = bench.put_raw(&vec![0xFF_u8; bytes + BEHIND])?;
        memory.forget(0, bytes + BEHIND);
        Ok(Place {
            name,
            memory,
            bytes,
        })
    }

    pub(super) fn of(
        bench: &Bench<'_>,
        name: &'static str,
        region: Region,
    ) -> Result<Place, Failure> {
        Place::new(bench, name, region.bytes)
    }

    /// Written by the host.
    pub(super) fn put<T: Element>(&mut self, values: &[T]) -> Result<(), Failure> {
        if size_of_val(values) > self.bytes {
            let (name, bytes, has) = (self.name, size_of_val(values), self.bytes);
            let what = format!("{name}: {bytes} bytes in a region of {has}");
            return Err(Failure::Wrong(what));
        }
        Ok(self.memory.upload(values)?)
    }

    /// Every byte of it, such that numbers of any type are small ones.
    pub(super) fn fill(&mut self) -> Result<(), Failure> {
        let small: Vec<u8> = (0..self.bytes)
            .map(|at| {
                if at % 2 == 0 {
                    at.to_le_bytes()[0]
                } else {
                    0x3C
                }
            })
            .collect();
        self.put(&small)
    }

    /// All but the last `less` numbers.
    pub(super) fn view(&self, kind: Kind, less: usize) -> Tensor<'_> {
        self.memory.view(kind).part(0, self.count(kind, less))
    }

    pub(super) fn view_mut(&mut self, kind: Kind, less: usize) -> TensorMut<'_> {
        let count = self.count(kind, less);
        self.memory.front_mut(kind, count)
    }

    pub(super) fn count(&self, kind: Kind, less: usize) -> usize {
        (self.bytes / kind.bytes()).saturating_sub(less)
    }

    /// The name, and whether there is anything to have less of.
    pub(super) const fn operand(&self) -> (&'static str, bool) {
        (self.name, self.bytes > 0)
    }

    /// Nothing was written behind it.
    pub(super) fn stayed_inside(&self) -> Result<(), Failure> {
        let all: Vec<u8> = self.memory.download(self.bytes + BEHIND)?;
        let what = format!("behind {}", self.name);
        same(&what, &all[self.bytes..], &[0xFF; BEHIND])
    }
}

/// Runs an op that takes every number of these operands: first with a number less of one after the other,
/// which must be refused, then with all.
pub(super) fn takes<const N: usize>(
    op: &str,
    operands: [(&'static str, bool); N],
    mut run: impl FnMut([usize; N]) -> Result<(), GpuError>,
) -> Result<(), Failure> {
    for (at, (name, _)) in operands.iter().enumerate().filter(|(_, (_, has))| *has) {
        let less = std::array::from_fn(|of| usize::from(of == at));
        refused(
            &format!("{op} with a number less of {name}"),
            run(less),
            |error| matches!(error, GpuError::Shape { .. } | GpuError::Unsupported { .. }),
        )?;
    }
    run([0; N]).map_err(|error| Failure::Wrong(format!("{op}: {error}")))
}
