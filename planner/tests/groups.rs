//! Weights that are rounded in groups of 128: which matrices have them, in how many bytes, and when they are
//! a way out.

mod samples;

use plimsoll_planner::weights::{Form, Tensor, layout};
use plimsoll_planner::{
    Backend, BlockFormat, LayerBlocks, ModelShape, Quantization, Remedy, Shard, plan, table,
};
use samples::{MIB, request, smollm2};

/// A matrix takes groups of 128 where its rows are whole ones, groups of 32 where they are whole ones of
/// these, and otherwise stays; what is cut inside of a group has its head on either side.
#[test]
fn groups_of_128_are_taken_where_they_divide_the_rows() {
    let shape = ModelShape {
        hidden: 1024,
        query_heads: 12,
        kv_heads: 4,
        head_dim: 64,
        ffn: 2720,
        ..smollm2()
    };
    let mut asked = request(shape, Backend::Cpu, &[4096 * MIB]);
    asked.quantization = Quantization::Int4By128;
    let with_down = |down| LayerBlocks {
        down,
        ..LayerBlocks::uniform(Some(BlockFormat::Z4By128))
    };
    for (ffn, down) in [
        (2720, Some(BlockFormat::Q4_0)),
        (2730, None),
        (2816, Some(BlockFormat::Z4By128)),
    ] {
        asked.shape.ffn = ffn;
        let kept = asked.kept().all(30);
        assert_eq!(kept.layers, vec![with_down(down); 30], "{ffn}");
        assert_eq!(kept.embedding, Some(BlockFormat::Q8_0));
    }
    // Three heads of 64 columns each: the second rank's begin in the middle of a group.
    let half = Shard {
        kv_heads: 1..2,
        query_heads: 3..6,
        mlp_columns: 1408..2816,
        ..Shard::whole(&asked.shape)
    };
    let layout = layout(&asked.shape, &half, asked.kept(), 1);
    // 192 columns touch two groups or three, 1408 eleven or twelve.
    for (tensor, bytes) in [
        (Tensor::Output { layer: 0 }, 1024 * (3 * 4 + 192 / 2)),
        (Tensor::Down { layer: 0 }, 1024 * (12 * 4 + 1408 / 2)),
    ] {
        let place = layout.get(tensor).unwrap();
        assert_eq!(place.bytes, bytes, "{tensor:?}");
        assert_eq!(place.form, Form::Pieces(BlockFormat::Z4By128, asked.dtype));
    }
}

/// Of SmolLM2 the down projections alone have groups of 128, which take 742 KiB less: they are told of where
/// nothing else of fewer bits fits.
#[test]
fn longer_groups_are_a_remedy_where_four_bits_in_short_ones_do_not_fit() {
    const STEP: u64 = 64 << 10;
    let with = |steps: u64, quantization| {
        let mut request = request(smollm2(), Backend::Cpu, &[steps * STEP]);
        request.quantization = quantization;
        request
    };
    let fits = |steps: u64, quantization| plan(&with(steps, quantization)).is_ok();
    // 256 MiB are enough.
    let (mut less, mut enough) = (0, 4096);
    while enough - less > 1 {
        let middle = u64::midpoint(less, enough);
        match fits(middle, Quantization::Int4) {
            true => enough = middle,
            false => less = middle,
        }
    }
    let mode = Quantization::Int4By128;
    for asked in [Quantization::Auto, Quantization::Int8, Quantization::Int4] {
        let refused = with(less, asked);
        let refusal = plan(&refused).unwrap_err();
        let remedy = Remedy::Quantization { mode };
        assert!(refusal.remedies.contains(&remedy), "{asked:?}: {refusal}");
        let says = "spec.model.quantization.mode Int4 with groupSize 128";
        assert!(refusal.message().contains(says), "{refusal}");
        let fits = remedy.apply(&refused);
        let told = table(&fits, &plan(&fits).unwrap());
        assert!(told.contains("Q4_0, Q8_0, Z4_128, computed in"), "{told}");
    }
    // With room for groups of 32 they are what is told of.
    let message = plan(&with(enough, Quantization::Int8))
        .unwrap_err()
        .message();
    assert!(message.contains("mode Int4"), "{message}");
    assert!(!message.contains("groupSize"), "{message}");
}
