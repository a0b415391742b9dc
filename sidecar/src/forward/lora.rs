//! Where adapters lie on one rank, and which of their matrices are applied together.

use std::ops::Range;

use plimsoll_kernels::lora::Factors;
use plimsoll_planner::adapters::{AdapterLayout, FactorPlace, Projection};
use plimsoll_planner::scratch::Region;
use plimsoll_planner::{Account, ModelShape, Shard};

use super::handle::{Format, Handle};
use super::places::Entered;
use crate::memory::registry::Owner;

const NUMBER_BYTES: u64 = 4;

/// Matrices that share an input, with their products side by side.
#[derive(Clone, Debug)]
pub struct Adaption {
    pub layer: u32,
    /// Each with its columns of a row of the result.
    pub parts: Vec<(Projection, Range<usize>)>,
    /// Where slots have the factors of each; none without slots.
    pub factors: Vec<Factors>,
    /// Numbers of a row of the input.
    pub inputs: usize,
    /// Numbers of a row of the result.
    pub stride: usize,
}

/// What adapters may change of one layer.
#[derive(Clone, Debug)]
pub struct LayerAdaption {
    pub qkv: Adaption,
    pub output: Adaption,
    pub gate_up: Adaption,
    pub down: Adaption,
}

/// The places of the account.
#[derive(Clone, Debug)]
pub struct AdapterPlaces {
    /// Whole slots.
    pub slots: Vec<Handle>,
    /// Of a slot, as the planner has them.
    pub places: Vec<FactorPlace>,
    pub largest_rank: usize,
    /// Of the rows of a step that have an adapter.
    pub rows: Handle,
    pub row_slots: Handle,
    pub products: Handle,
}

impl AdapterPlaces {
    pub(super) fn of(planned: &AdapterLayout, rank: u32, entered: &mut Entered) -> AdapterPlaces {
        let handle = |region, format| Handle {
            arena: Account::Adapters,
            region,
            format,
        };
        let mut slots = Vec::new();
        for slot in 0..planned.slots() {
            let handle = handle(planned.slot(slot), Format::F32);
            entered.enter(slot_name(slot), Owner::Adapter, handle);
            slots.push(handle);
        }
        let places = AdapterPlaces {
            slots,
            places: planned.places().to_vec(),
            largest_rank: rank as usize,
            rows: handle(planned.rows, Format::U32),
            row_slots: handle(planned.row_slots, Format::U32),
            products: handle(planned.products, Format::F32),
        };
        if !places.slots.is_empty() {
            for (name, handle) in [
                ("adapter_rows", places.rows),
                ("adapter_row_slots", places.row_slots),
                ("adapter_products", places.products),
            ] {
                entered.enter(name.to_owned(), Owner::Scratch, handle);
            }
        }
        places
    }

    /// A part of a slot.
    pub fn part(&self, slot: usize, region: Region) -> Handle {
        let whole = self.slots[slot];
        Handle {
            region: Region {
                offset: whole.region.offset + region.offset,
                bytes: region.bytes,
            },
            ..whole
        }
    }

    /// What may be changed of a layer.
    pub(super) fn layer(&self, layer: u32, (shape, shard): (&ModelShape, &Shard)) -> LayerAdaption {
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let together = |projections: Range<usize>| {
            let first = layer as usize * Projection::ALL.len();
            let (mut stride, mut inputs) = (0, 0);
            let (mut parts, mut factors) = (Vec::new(), Vec::new());
            for projection in &Projection::ALL[projections] {
                let (width, outputs) = projection.sizes(shape, shard);
                let columns = stride..stride + size(outputs);
                (stride, inputs) = (columns.end, size(width));
                let index = first + *projection as usize;
                if let Some(place) = self.places.get(index) {
                    factors.push(Factors {
                        a: size(place.a.offset / NUMBER_BYTES),
                        b: size(place.b.offset / NUMBER_BYTES),
                        columns: columns.clone(),
                        index,
                    });
                }
                parts.push((*projection, columns));
            }
            Adaption {
                layer,
                parts,
                factors,
                inputs,
                stride,
            }
        };
        LayerAdaption {
            qkv: together(0..3),
            output: together(3..4),
            gate_up: together(4..6),
            down: together(6..7),
        }
    }
}

/// What a slot is called among tensors.
pub fn slot_name(slot: u32) -> String {
    format!("adapter_slot_{slot}")
}
