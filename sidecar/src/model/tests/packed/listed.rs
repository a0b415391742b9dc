//! Groups of inputs that are apart in the file.

use std::collections::HashSet;

use plimsoll_planner::{BlockFormat, LayerOrders, Order};
use safetensors::Dtype as Type;

use super::{DOWN, Fixture, Made, assert_blocks};

/// Groups of inputs that are apart: the columns lie group by group, and who shares a list lies together.
#[test]
fn columns_of_groups_that_are_apart_stay_in_blocks_with_a_list() {
    let name = "gptq-4bit-act-order";
    let of = |fixture: &Fixture| {
        let model = fixture.open().unwrap();
        assert!(
            !model.told.join("").contains("expanded"),
            "{:?}",
            model.told
        );
        let layer = model.shape.blocks.layer(0);
        assert_eq!(layer.all(), [Some(BlockFormat::Q4_0); 7]);
        (layer.orders, model)
    };
    let own = LayerOrders {
        query: Order::Own,
        key: Order::Own,
        value: Order::Own,
        output: Order::Own,
        gate: Order::Own,
        up: Order::Own,
        down: Order::Own,
    };
    let (orders, model) = of(&Fixture::new(name));
    assert_eq!(orders, own);
    let groups = Fixture::new(name).down("g_idx").2.clone();
    let list = model.tensors.order(&format!("{DOWN}.weight")).unwrap();
    let of_group = |col: &u32| (groups[*col as usize * 4], *col);
    assert!(
        list.is_sorted_by_key(of_group) && list.len() == 160,
        "{list:?}"
    );
    // The list of one is that of the others.
    let copied = |parts: &[&str]| {
        let mut fixture = Fixture::new(name);
        let list = |of: &str| format!("model.layers.0.{of}_proj.g_idx");
        let first = fixture.tensors[&list(parts[0])].clone();
        for part in parts {
            fixture.tensors.insert(list(part), first.clone());
        }
        let (orders, model) = of(&fixture);
        let lists = parts.iter().map(|part| {
            let name = format!("model.layers.0.{part}_proj.weight");
            model.tensors.order(&name).unwrap().as_ptr()
        });
        let lists: HashSet<_> = lists.collect();
        assert_eq!(lists.len(), 1, "{parts:?} hold the list more than once");
        orders
    };
    let shared = LayerOrders {
        query: Order::Shared,
        key: Order::Shared,
        value: Order::Shared,
        ..own
    };
    assert_eq!(
        copied(&["self_attn.q", "self_attn.k", "self_attn.v"]),
        shared
    );
    assert_eq!(copied(&["self_attn.q", "self_attn.k"]), own);
    let shared = LayerOrders {
        gate: Order::Shared,
        up: Order::Shared,
        ..own
    };
    assert_eq!(copied(&["mlp.gate", "mlp.up"]), shared);
    // compressed-tensors lists them under another name.
    let mut fixture = Fixture::new("ct-w4a16-zero-points");
    let inputs = Made(Type::I32, vec![160], groups);
    fixture
        .tensors
        .insert(format!("{DOWN}.weight_g_idx"), inputs);
    let model = fixture.open().unwrap();
    let layer = model.shape.blocks.layer(0);
    assert_eq!(layer.down, Some(BlockFormat::Z4By32));
    let down = LayerOrders {
        down: Order::Own,
        ..LayerOrders::INPUTS
    };
    assert_eq!(layer.orders, down);
    assert_blocks(&model, &format!("{DOWN}.weight"), "listed");
}
