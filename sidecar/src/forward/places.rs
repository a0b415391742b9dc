//! Where everything lies that one rank holds beside its weights and KV blocks: the planner's
//! layouts as handles, each entered with its owner.

use plimsoll_planner::Account;
use plimsoll_planner::scratch::{ActivationLayout, Region, WorkspaceLayout};

use super::handle::{Format, Handle};
use crate::memory::registry::{Owner, Registry, TensorEntry};

/// The tensors of a rank as they are entered, and the handle of each.
#[derive(Debug, Default)]
pub(super) struct Entered {
    pub(super) registry: Registry,
    /// As many as the registry has entries, in its order.
    pub(super) handles: Vec<Handle>,
}

impl Entered {
    pub(super) fn enter(&mut self, name: String, owner: Owner, handle: Handle) {
        self.registry.add(TensorEntry {
            name,
            owner,
            account: handle.arena,
            offset: handle.region.offset,
            bytes: handle.region.bytes,
        });
        self.handles.push(handle);
    }

    /// The KV cache lies here from now on.
    pub(super) fn resize_kv(&mut self, cache: Handle) {
        if let Some(at) = self.registry.resize_kv(cache.region.bytes) {
            self.handles[at] = cache;
        }
    }
}

/// An account whose tensors are placed one after the other.
#[derive(Debug)]
pub(super) struct Area<'a> {
    account: Account,
    entered: &'a mut Entered,
}

impl<'a> Area<'a> {
    pub(super) fn new(account: Account, entered: &'a mut Entered) -> Area<'a> {
        Area { account, entered }
    }

    fn place(&mut self, name: &str, region: Region, format: Format, owner: Owner) -> Handle {
        let handle = Handle {
            arena: self.account,
            region,
            format,
        };
        self.entered.enter(name.to_owned(), owner, handle);
        handle
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
            pub(super) fn place(layout: &$layout, area: &mut Area<'_>) -> $name {
                $name { $($field: area.place(
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
