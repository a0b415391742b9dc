//! Whose columns lie by a list: names in a row of facts, an order of each matrix in the planner.

use plimsoll_planner::{LayerBlocks, LayerOrders, Order};

use crate::v1alpha1::convert::ConvertError;
use crate::v1alpha1::facts::{Matrix, StoredLayers};

/// A matrix of a row, whether the row has it, and what is said of it.
struct Named {
    name: Matrix,
    is_there: bool,
    is_listed: bool,
}

/// Those of a row.
///
/// # Errors
/// When it lists a matrix that it has not in blocks, or one that it has under another name.
pub(super) fn orders(row: &StoredLayers) -> Result<LayerOrders, ConvertError> {
    let &StoredLayers {
        count: _,
        qkv,
        query,
        key,
        value,
        output,
        gate_up,
        gate,
        up,
        down,
        ref listed,
    } = row;
    let mut all = [
        (Matrix::Qkv, qkv),
        (Matrix::Query, query),
        (Matrix::Key, key),
        (Matrix::Value, value),
        (Matrix::Output, output),
        (Matrix::GateUp, gate_up),
        (Matrix::Gate, gate),
        (Matrix::Up, up),
        (Matrix::Down, down),
    ]
    .map(|(name, format)| Named {
        name,
        is_there: format.is_some(),
        is_listed: false,
    });
    for wanted in listed {
        let found = all.iter_mut().find(|of| of.name == *wanted);
        match found.filter(|of| of.is_there && !of.is_listed) {
            Some(of) => of.is_listed = true,
            None => {
                return Err(ConvertError::Facts(format!(
                    "blocks.layers lists {wanted:?} twice, or without blocks of it"
                )));
            }
        }
    }
    let [qkv, query, key, value, output, gate_up, gate, up, down] = all.map(|of| of.is_listed);
    let order = |together: bool, alone: bool| match (together, alone) {
        (true, _) => Order::Shared,
        (false, true) => Order::Own,
        (false, false) => Order::Inputs,
    };
    Ok(LayerOrders {
        query: order(qkv, query),
        key: order(qkv, key),
        value: order(qkv, value),
        output: order(false, output),
        gate: order(gate_up, gate),
        up: order(gate_up, up),
        down: order(false, down),
    })
}

/// The names of a layer's.
pub(super) fn of(layer: &LayerBlocks) -> Vec<Matrix> {
    let LayerOrders {
        query,
        key,
        value,
        output,
        gate,
        up,
        down,
    } = layer.orders;
    let (qkv, gate_up) = (layer.fuses_qkv(), layer.fuses_gate_up());
    let named = [
        (qkv, Matrix::Qkv, query),
        (!qkv, Matrix::Query, query),
        (!qkv, Matrix::Key, key),
        (!qkv, Matrix::Value, value),
        (true, Matrix::Output, output),
        (gate_up, Matrix::GateUp, gate),
        (!gate_up, Matrix::Gate, gate),
        (!gate_up, Matrix::Up, up),
        (true, Matrix::Down, down),
    ];
    let listed = named
        .into_iter()
        .filter(|(is, _, order)| *is && order.is_listed());
    listed.map(|(_, name, _)| name).collect()
}
