//! In which order the columns of matrices in blocks lie: groups of a file may be of inputs that are apart
//! (act order). Their columns lie group by group, so that blocks hold them, and a list says which input
//! each is of.

/// In which order the columns of a matrix in blocks lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// As its inputs come.
    #[default]
    Inputs,
    /// Group by group, as a list says that q, k and v have in common, or gate and up.
    Shared,
    /// The same, by a list of its own.
    Own,
}

impl Order {
    /// Whether there is a list.
    pub fn is_listed(self) -> bool {
        self != Order::Inputs
    }
}

/// The orders of a layer's matrices; those without blocks have their inputs' order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LayerOrders {
    pub query: Order,
    pub key: Order,
    pub value: Order,
    pub output: Order,
    pub gate: Order,
    pub up: Order,
    pub down: Order,
}

impl LayerOrders {
    pub const INPUTS: LayerOrders = LayerOrders {
        query: Order::Inputs,
        key: Order::Inputs,
        value: Order::Inputs,
        output: Order::Inputs,
        gate: Order::Inputs,
        up: Order::Inputs,
        down: Order::Inputs,
    };

    /// Whether q, k and v have one order.
    pub(crate) fn shares_qkv(self) -> bool {
        self.query == self.key && self.key == self.value && self.query != Order::Own
    }

    /// Whether gate and up have.
    pub(crate) fn shares_gate_up(self) -> bool {
        self.gate == self.up && self.gate != Order::Own
    }

    /// Without those of what is cut by columns.
    pub(crate) fn cut(self) -> LayerOrders {
        LayerOrders {
            output: Order::Inputs,
            down: Order::Inputs,
            ..self
        }
    }
}
