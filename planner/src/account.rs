//! The accounts of a rank's ledger: every byte on a GPU belongs to exactly one, and one more is for
//! what the rank keeps in host memory.

/// Who holds bytes on one rank. The order is the order of every table that shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// Weights in kernel layout, and the ring that offloaded ones are streamed through.
    Weights,
    /// The paged KV cache, null block included.
    KvCache,
    /// Activations at the largest batch, and the logits.
    Activations,
    /// Captured graphs (CUDA).
    Graphs,
    /// Buffers that ranks exchange sums through.
    Comm,
    /// Tables and scratch of kernels: RoPE tables, converted inputs, attention splits, sampling.
    Workspaces,
    /// Slots for adapters that are served unmerged, and the scratch that applies them.
    Adapters,
    /// What the driver takes for itself (CUDA context and modules).
    Context,
    /// Offloaded weights: host memory, in no budget.
    Offload,
}

impl Account {
    pub const ALL: [Account; 9] = [
        Account::Weights,
        Account::KvCache,
        Account::Activations,
        Account::Graphs,
        Account::Comm,
        Account::Workspaces,
        Account::Adapters,
        Account::Context,
        Account::Offload,
    ];

    /// Whether its bytes are the device's: a rank's budget bounds these, all together.
    pub const fn on_device(self) -> bool {
        match self {
            Account::Weights
            | Account::KvCache
            | Account::Activations
            | Account::Graphs
            | Account::Comm
            | Account::Workspaces
            | Account::Adapters
            | Account::Context => true,
            Account::Offload => false,
        }
    }

    /// The name in status, JSON and tables (CamelCase, as Kubernetes enums are).
    pub const fn name(self) -> &'static str {
        match self {
            Account::Weights => "Weights",
            Account::KvCache => "KVCache",
            Account::Activations => "Activations",
            Account::Graphs => "Graphs",
            Account::Comm => "Comm",
            Account::Workspaces => "Workspaces",
            Account::Adapters => "Adapters",
            Account::Context => "Context",
            Account::Offload => "Offload",
        }
    }

    /// The `kind` label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Account::Weights => "weights",
            Account::KvCache => "kv_cache",
            Account::Activations => "activations",
            Account::Graphs => "graphs",
            Account::Comm => "comm",
            Account::Workspaces => "workspaces",
            Account::Adapters => "adapters",
            Account::Context => "context",
            Account::Offload => "offload",
        }
    }
}
