//! Slots for adapters that are served unmerged: the account `Adapters` of one rank.
//!
//! A slot is a fixed region with room for both factors of every matrix of every layer at the largest
//! rank, in f32: what PEFT computes with, so that an adapter is kept without a rounding. Behind the
//! slots lies what a step needs to apply them.
//!
//! ```text
//! slot 0 | slot 1 | … | rows | row slots | products
//! slot:  layer 0: q.A q.B k.A k.B v.A v.B o.A o.B gate.A gate.B up.A up.B down.A down.B; layer 1: …
//! ```
//! y += B (A x). Matrices that are cut by rows (q, k, v, gate, up) have A whole on every rank and their
//! own rows of B; those that are cut by columns (o, down) have their own columns of A and B whole, and
//! are added before the sum over ranks.

use crate::bytes::Bytes;
use crate::model::ModelShape;
use crate::request::{AdapterSlots, Limits};
use crate::scratch::{Cursor, Region};
use crate::shard::Shard;
use crate::weights::padded_mlp_columns;

/// Most adapters at once.
pub const SLOTS_MAX: u32 = 256;
/// The largest rank that there may be room for.
pub const RANK_MAX: u32 = 4096;
/// Matrices that share one input are applied together: q, k and v are the most.
const TOGETHER: u64 = 3;
const NUMBER_BYTES: u64 = 4;

/// A matrix of a layer that adapters may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

impl Projection {
    /// In the order in which they lie.
    pub const ALL: [Projection; 7] = [
        Projection::Query,
        Projection::Key,
        Projection::Value,
        Projection::Output,
        Projection::Gate,
        Projection::Up,
        Projection::Down,
    ];

    /// Inputs and outputs on one rank, columns that pad a share of the MLP included.
    pub fn sizes(self, shape: &ModelShape, shard: &Shard) -> (u64, u64) {
        let (hidden, head_dim) = (u64::from(shape.hidden), u64::from(shape.head_dim));
        let query = u64::from(shard.query_head_count()) * head_dim;
        let kv = u64::from(shard.kv_head_count()) * head_dim;
        let columns = padded_mlp_columns(shard);
        match self {
            Projection::Query => (hidden, query),
            Projection::Key | Projection::Value => (hidden, kv),
            Projection::Output => (query, hidden),
            Projection::Gate | Projection::Up => (hidden, columns),
            Projection::Down => (columns, hidden),
        }
    }
}

/// Where both factors of one matrix lie in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FactorPlace {
    pub layer: u32,
    pub projection: Projection,
    /// Of this rank.
    pub inputs: u64,
    pub outputs: u64,
    /// f32 `[rank, inputs]`, from the start of the slot.
    pub a: Region,
    /// f32 `[rank, outputs]`: B with rows and columns changed over, times the adapter's scale.
    pub b: Region,
}

/// Where everything of the account lies on one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterLayout {
    places: Vec<FactorPlace>,
    slot_bytes: u64,
    slots: u32,
    /// u32 `[n]`, n = `max_num_batched_tokens`: rows of a step that have an adapter
    pub rows: Region,
    /// u32 `[n]`: the slot of each
    pub row_slots: Region,
    /// f32 `[n, 3 x rank]`: A x of the matrices that share an input
    pub products: Region,
    total: Bytes,
}

impl AdapterLayout {
    /// Of each slot: by layer, and there in the order of [`Projection::ALL`].
    pub fn places(&self) -> &[FactorPlace] {
        &self.places
    }

    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// One slot, from the start of the account.
    pub fn slot(&self, slot: u32) -> Region {
        Region {
            offset: u64::from(slot) * self.slot_bytes,
            bytes: self.slot_bytes,
        }
    }

    /// The account, before it is rounded up to the granule.
    pub fn total(&self) -> Bytes {
        self.total
    }
}

/// Where adapters lie on one rank. Empty without slots.
pub fn layout(
    shape: &ModelShape,
    shard: &Shard,
    limits: &Limits,
    asked: AdapterSlots,
) -> AdapterLayout {
    let layers = match asked.slots {
        0 => 0,
        _ => shape.layers,
    };
    let mut cursor = Cursor::default();
    let mut places = Vec::with_capacity(layers as usize * Projection::ALL.len());
    for index in 0..layers {
        layer(&mut cursor, (shape, shard), asked.rank, index, |place| {
            places.push(place);
        });
    }
    let slot = cursor.end();
    let ends = ends(slot, limits, asked);
    AdapterLayout {
        places,
        slot_bytes: slot.get(),
        slots: asked.slots,
        rows: ends.rows,
        row_slots: ends.row_slots,
        products: ends.products,
        total: ends.total,
    }
}

/// The account, before it is rounded up to the granule: [`AdapterLayout::total`] without its places.
pub fn total(shape: &ModelShape, shard: &Shard, limits: &Limits, asked: AdapterSlots) -> Bytes {
    if asked.slots == 0 {
        return Bytes::ZERO;
    }
    let mut cursor = Cursor::default();
    layer(&mut cursor, (shape, shard), asked.rank, 0, |_| {});
    // Layers are alike, and each ends where a buffer may begin.
    let slot = cursor.end().saturating_mul(shape.layers.into());
    ends(slot, limits, asked).total
}

fn layer(
    cursor: &mut Cursor,
    (shape, shard): (&ModelShape, &Shard),
    rank: u32,
    layer: u32,
    mut place: impl FnMut(FactorPlace),
) {
    for projection in Projection::ALL {
        let (inputs, outputs) = projection.sizes(shape, shard);
        let mut factor = |width: u64| {
            let numbers = Bytes(width).saturating_mul(rank.into());
            cursor.place(numbers, NUMBER_BYTES)
        };
        let (a, b) = (factor(inputs), factor(outputs));
        place(FactorPlace {
            layer,
            projection,
            inputs,
            outputs,
            a,
            b,
        });
    }
}

/// What lies behind the slots, and the end of it.
struct Ends {
    rows: Region,
    row_slots: Region,
    products: Region,
    total: Bytes,
}

fn ends(slot: Bytes, limits: &Limits, asked: AdapterSlots) -> Ends {
    let tokens = match asked.slots {
        0 => Bytes::ZERO,
        _ => Bytes(limits.max_num_batched_tokens.into()),
    };
    let mut cursor = Cursor::from(slot.saturating_mul(asked.slots.into()));
    let (rows, row_slots) = (cursor.place(tokens, 4), cursor.place(tokens, 4));
    let products = tokens.saturating_mul(TOGETHER * u64::from(asked.rank));
    let products = cursor.place(products, NUMBER_BYTES);
    Ends {
        rows,
        row_slots,
        products,
        total: cursor.end(),
    }
}
