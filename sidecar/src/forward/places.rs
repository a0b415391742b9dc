//! Where everything lies that one rank holds beside its weights and KV blocks: the planner's
//! layouts, carved from their arenas and turned into handles.

use plimsoll_kernels::device::Buffer;
use plimsoll_planner::Account;
use plimsoll_planner::scratch::{ActivationLayout, Region, WorkspaceLayout};

use super::handle::{Format, Handle};
use crate::memory::arena::{Arena, Owner, Registry};

/// An arena that is being carved, and what was cut from it so far.
#[derive(Debug)]
pub(super) struct Area<'a> {
    account: Account,
    arena: Arena,
    registry: &'a mut Registry,
    /// By [`Handle::index`].
    pub(super) buffers: Vec<Buffer>,
}

impl<'a> Area<'a> {
    pub(super) fn new(account: Account, arena: Arena, registry: &'a mut Registry) -> Area<'a> {
        Area {
            account,
            arena,
            registry,
            buffers: Vec::new(),
        }
    }

    fn carve(&mut self, name: &str, region: Region, format: Format, owner: Owner) -> Handle {
        let Region { offset, bytes } = region;
        let buffer = self.arena.carve(self.registry, owner, name, offset, bytes);
        self.buffers.push(buffer);
        Handle {
            arena: self.account,
            region,
            format,
            index: self.buffers.len() - 1,
        }
    }
}

/// Structs of handles, one per field of a planner's layout, in the order in which they lie.
macro_rules! places {
    ($($(#[$doc:meta])* $name:ident, of $layout:ty {
        $($field:ident: $format:ident, $owner:expr;)*
    })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name { $(pub $field: Handle,)* }

        impl $name {
            pub(super) fn carve(layout: &$layout, area: &mut Area<'_>) -> $name {
                $name { $($field: area.carve(
                    stringify!($field), layout.$field, Format::$format, $owner,
                ),)* }
            }
        }
    )* };
}

places! {
    /// Activations, see [`ActivationLayout`].
    Activations, of ActivationLayout {
        hidden: F32, Owner::Scratch;
        residual: F32, Owner::Scratch;
        normed: F32, Owner::Scratch;
        qkv: F32, Owner::Scratch;
        attention: F32, Owner::Scratch;
        gate_up: F32, Owner::Scratch;
        activated: F32, Owner::Scratch;
        partial: F32, Owner::Scratch;
        logits: F32, Owner::Scratch;
    }
    /// What ops keep for themselves, see [`WorkspaceLayout`].
    Scratch, of WorkspaceLayout {
        rope_cos: F32, Owner::Derived("rope");
        rope_sin: F32, Owner::Derived("rope");
        gemm_input: Raw, Owner::Scratch;
        attention: F32, Owner::Scratch;
        sampling: U64, Owner::Scratch;
    }
    /// The step's description, see [`WorkspaceLayout`]: it lies behind the scratch.
    Inputs, of WorkspaceLayout {
        token_ids: U32, Owner::Scratch;
        positions: U32, Owner::Scratch;
        slots: U64, Owner::Scratch;
        query_start: U32, Owner::Scratch;
        context_len: U32, Owner::Scratch;
        block_tables: U32, Owner::Scratch;
    }
}
