//! Adapters that requests choose: words for them, and the table of who is in which slot (`loading` fills
//! it). An adapter comes opened and checked (`adapters::Dynamic`).
//!
//! Blocks of the cache are named with the adapter and the number of its load, so that no prefix of
//! another one, or of the weights alone, is found.

use std::path::PathBuf;
use std::sync::Arc;

use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use plimsoll_planner::{AdapterSlots, Bytes, Plan, RankPlan, Request, adapters};

use crate::adapters::Dynamic;
use crate::forward::lora::slot_name;

/// What a request is told whose adapter went before its first turn, or could not be read again.
pub(super) const UNLOADED: &str = "its adapter was unloaded";

/// Why an adapter was not loaded or unloaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdapterRefused {
    #[error("an adapter `{name}` is loaded already, and it was not to be replaced (load_inplace)")]
    Loaded { name: String },
    #[error("there is no adapter `{name}`")]
    Unknown { name: String },
    #[error(
        "the {slots} slots for adapters are taken, {leaving} of them by adapters whose last requests \
         end: unload one, or start with a larger --max-adapters"
    )]
    NoSlot { slots: usize, leaving: usize },
    #[error("{0}")]
    Unfit(String),
}

/// An adapter that requests may choose, or whose last ones end.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterInSlot {
    pub name: String,
    pub path: PathBuf,
    pub scale: AdapterScale,
    /// `sha256:<hex>`, of all of it.
    pub digest: String,
    pub rank: u32,
    /// Matrices that it changes.
    pub matrices: usize,
    pub slot: u32,
    /// Loads before it, and its own.
    pub load: u64,
    /// No new requests are taken.
    pub leaving: bool,
    /// Of a probe's logits, by length; None where it was not measured.
    pub answers_change: Option<f64>,
}

/// What others see of the slots.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptersInSlots {
    pub room: AdapterSlots,
    /// Of one slot, on all ranks together.
    pub slot_bytes: Bytes,
    /// By slot.
    pub adapters: Vec<AdapterInSlot>,
}

impl Default for AdaptersInSlots {
    fn default() -> AdaptersInSlots {
        AdaptersInSlots {
            room: AdapterSlots::NONE,
            slot_bytes: Bytes::ZERO,
            adapters: Vec::new(),
        }
    }
}

impl AdaptersInSlots {
    /// The adapter that requests mean by this name.
    pub fn find(&self, name: &str) -> Option<&AdapterInSlot> {
        let mut all = self.adapters.iter();
        all.find(|of| of.name == name && !of.leaving)
    }

    pub fn serves(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Resident {
    pub(super) adapter: Arc<Dynamic>,
    pub(super) load: u64,
    pub(super) leaving: bool,
    pub(super) answers_change: Option<f64>,
}

/// The loop's own table.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) room: AdapterSlots,
    pub(super) slots: Vec<Option<Resident>>,
    /// To be loaded before the first request.
    pub(super) first: Vec<Arc<Dynamic>>,
    pub(super) loads: u64,
}

impl Slots {
    /// # Errors
    /// Where there is no room for those that are to be there from the start.
    pub(super) fn new(room: AdapterSlots, first: Vec<Arc<Dynamic>>) -> Result<Slots, String> {
        let slots = room.slots as usize;
        if first.len() > slots || first.iter().any(|of| of.rank > room.rank) {
            return Err(format!(
                "it has {slots} slots for adapters of rank {}, and {} adapters are given",
                room.rank,
                first.len()
            ));
        }
        Ok(Slots {
            room,
            slots: vec![None; slots],
            first,
            loads: 0,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The slot of an adapter that takes requests.
    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.slot_of(name, false)
    }

    /// The slot of one that takes none any more.
    pub(super) fn find_leaving(&self, name: &str) -> Option<u32> {
        self.slot_of(name, true)
    }

    fn slot_of(&self, name: &str, leaving: bool) -> Option<u32> {
        let is_it = |of: &Option<Resident>| {
            let of = of.as_ref();
            of.is_some_and(|of| of.adapter.at.name == name && of.leaving == leaving)
        };
        let at = self.slots.iter().position(is_it)?;
        u32::try_from(at).ok()
    }

    /// What blocks of the cache are named with.
    pub(super) fn identity(&self, slot: u32) -> Option<String> {
        let of = self.slots.get(slot as usize)?.as_ref()?;
        Some(format!("{} {}", of.load, of.adapter.at.name))
    }

    /// What a tensor is called in messages: a slot by its adapter.
    pub(super) fn shown(&self, tensor: &str) -> String {
        let is_it = |slot: &(u32, &Option<Resident>)| slot_name(slot.0) == tensor;
        match (0..).zip(&self.slots).find(is_it) {
            Some((_, Some(of))) => format!("adapter `{}`", of.adapter.at.name),
            Some((_, None)) | None => tensor.to_owned(),
        }
    }

    pub(super) fn view(&self, request: &Request, plan: &Plan) -> AdaptersInSlots {
        let slot = |rank: &RankPlan| {
            let Request { shape, limits, .. } = request;
            let layout = adapters::layout(shape, &rank.shard, limits, request.adapters);
            Bytes::measured(layout.slot(0).bytes)
        };
        AdaptersInSlots {
            room: request.adapters,
            slot_bytes: plan.ranks.iter().map(slot).sum(),
            adapters: Vec::new(),
        }
    }

    pub(super) fn adapters(&self) -> Vec<AdapterInSlot> {
        let show = |(slot, of): (u32, &Option<Resident>)| {
            let of = of.as_ref()?;
            let Dynamic {
                at,
                digest,
                rank,
                matrices,
                ..
            } = &*of.adapter;
            Some(AdapterInSlot {
                name: at.name.clone(),
                path: at.path.clone(),
                scale: at.scale,
                digest: digest.clone(),
                rank: *rank,
                matrices: *matrices,
                slot,
                load: of.load,
                leaving: of.leaving,
                answers_change: of.answers_change,
            })
        };
        (0..).zip(&self.slots).filter_map(show).collect()
    }
}
