//! Who holds which bytes of a rank: arenas at fixed addresses, tensors with owners, the ledger.

pub mod arena;
pub mod ledger;
pub mod registry;
pub mod resident;
pub mod snapshot;
mod streamed;
