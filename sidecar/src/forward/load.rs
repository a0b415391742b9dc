//! Reading one rank's share of the weights, straight to where they stay.
//!
//! The device asks for pieces of rows, on as many threads as it has, and writes each number once, in
//! its own layout; no tensor is ever whole in host memory beside its place.

use std::ops::Range;

use plimsoll_planner::weights::{Tensor, TensorPlace, WeightLayout, padded_mlp_columns};
use plimsoll_planner::{Dtype, ModelShape, Shard};

use super::backend::Store;
use super::layers::{Matrix, matrix};
use crate::model::ModelError;
use crate::weights::TensorSource;

/// A part of a tensor in the file, and the rows of the place that it fills.
struct Part {
    name: String,
    rows: Range<usize>,
    /// Columns of the file's tensor; the place may be wider (padding, zeros).
    cols: Range<usize>,
    first_row: usize,
}

/// Reads every tensor of a rank. `progress` is told the bytes of each part that is in place, and
/// may stop the load by returning false (the load then returns `Ok(false)`).
///
/// # Errors
/// As the source's.
pub(super) fn load(
    source: &dyn TensorSource,
    shape: &ModelShape,
    shard: &Shard,
    layout: &WeightLayout,
    device: &mut impl Store,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<bool, ModelError> {
    for place in layout.places() {
        let target = matrix(place);
        let parts = parts(place, shape, shard);
        let covered: usize = parts.iter().map(|part| part.rows.len()).sum();
        if covered < target.rows || parts.iter().any(|part| part.cols.is_empty()) {
            // Rows that no part covers are zero; columns are padded with their rows.
            device.clear(target.weight);
        }
        for part in parts {
            fill(source, &target, &part, device)?;
        }
        if !progress(place.bytes) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn fill(
    source: &dyn TensorSource,
    target: &Matrix,
    part: &Part,
    device: &mut impl Store,
) -> Result<(), ModelError> {
    let Part {
        name,
        rows,
        cols,
        first_row,
    } = part;
    if rows.is_empty() || cols.is_empty() {
        return Ok(());
    }
    let number = if target.dtype == Dtype::Float32 { 4 } else { 2 };
    let (read, width) = (cols.len() * number, target.cols * number);
    let places = *first_row..first_row + rows.len();
    device.fill(target, places, &|places, out| {
        let first = rows.start + (places.start - first_row);
        let wanted = first..first + places.len();
        let narrow = &mut out[..places.len() * read];
        source.read_as(target.dtype, name, wanted, cols.clone(), narrow)?;
        widen(out, read, width);
        Ok(())
    })
}

/// Rows of `from` bytes, at the front, become rows of `to`, padded with zeros.
fn widen(rows: &mut [u8], from: usize, to: usize) {
    if from == to {
        return;
    }
    for row in (0..rows.len() / to).rev() {
        rows.copy_within(row * from..(row + 1) * from, row * to);
        rows[row * to + from..(row + 1) * to].fill(0);
    }
}

/// Where the rows of a place come from, in the file's names.
fn parts(place: &TensorPlace, shape: &ModelShape, shard: &Shard) -> Vec<Part> {
    let hidden = shape.hidden as usize;
    let head_dim = shape.head_dim as usize;
    let wide =
        |range: &Range<u32>, unit: usize| range.start as usize * unit..range.end as usize * unit;
    let heads = wide(&shard.query_heads, head_dim);
    let kv_heads = wide(&shard.kv_heads, head_dim);
    let columns = wide(&shard.mlp_columns, 1);
    let padded = usize::try_from(padded_mlp_columns(shard)).unwrap_or(usize::MAX);
    let layer = |layer: u32, name: &str| format!("model.layers.{layer}.{name}");
    let whole = |name: String, rows: Range<usize>, width: usize| {
        vec![Part {
            name,
            rows,
            cols: 0..width,
            first_row: 0,
        }]
    };
    // q, k and v rows, and gate and up rows, lie in one tensor each.
    let qkv = |index: u32, suffix: &str, width: usize| {
        let (q, kv) = (heads.len(), kv_heads.len());
        let rows = [
            ("q", &heads, 0),
            ("k", &kv_heads, q),
            ("v", &kv_heads, q + kv),
        ];
        let part = |(which, rows, first_row): (&str, &Range<usize>, usize)| Part {
            name: layer(index, &format!("self_attn.{which}_proj.{suffix}")),
            rows: rows.clone(),
            cols: 0..width,
            first_row,
        };
        rows.map(part).into_iter().collect()
    };
    let gate_up = |index: u32, suffix: &str, width: usize| {
        let part = |(which, first_row): (&str, usize)| Part {
            name: layer(index, &format!("mlp.{which}_proj.{suffix}")),
            rows: columns.clone(),
            cols: 0..width,
            first_row,
        };
        [("gate", 0), ("up", padded)]
            .map(part)
            .into_iter()
            .collect()
    };
    // The output projections are cut by columns.
    let output = |index: u32, name: &str, cols: &Range<usize>| {
        vec![Part {
            name: layer(index, name),
            rows: 0..hidden,
            cols: cols.clone(),
            first_row: 0,
        }]
    };
    match place.tensor {
        Tensor::Embedding => whole(
            "model.embed_tokens.weight".into(),
            wide(&shard.vocab_rows, 1),
            hidden,
        ),
        Tensor::Head => whole("lm_head.weight".into(), wide(&shard.vocab_rows, 1), hidden),
        Tensor::FinalNorm => whole("model.norm.weight".into(), 0..hidden, 1),
        Tensor::InputNorm { layer: l } => whole(layer(l, "input_layernorm.weight"), 0..hidden, 1),
        Tensor::PostNorm { layer: l } => {
            whole(layer(l, "post_attention_layernorm.weight"), 0..hidden, 1)
        }
        Tensor::Qkv { layer: l } => qkv(l, "weight", hidden),
        Tensor::QkvBias { layer: l } => qkv(l, "bias", 1),
        Tensor::QNorm { layer: l } => whole(layer(l, "self_attn.q_norm.weight"), 0..head_dim, 1),
        Tensor::KNorm { layer: l } => whole(layer(l, "self_attn.k_norm.weight"), 0..head_dim, 1),
        Tensor::Output { layer: l } => output(l, "self_attn.o_proj.weight", &heads),
        Tensor::OutputBias { layer: l } => whole(layer(l, "self_attn.o_proj.bias"), 0..hidden, 1),
        Tensor::GateUp { layer: l } => gate_up(l, "weight", hidden),
        Tensor::GateUpBias { layer: l } => gate_up(l, "bias", 1),
        Tensor::Down { layer: l } => output(l, "mlp.down_proj.weight", &columns),
        Tensor::DownBias { layer: l } => whole(layer(l, "mlp.down_proj.bias"), 0..hidden, 1),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::config::plan_flags;
    use crate::forward::backend::ReadRows;
    use crate::forward::handle::Handle;
    use crate::forward::layout::Layout;
    use crate::memory::arena::ArenaError;
    use crate::memory::ledger::Ledger;
    use crate::model::{Model, ModelFolder, ModelParams};
    use crate::weights::TensorInfo;
    use plimsoll_planner::weights::Form;
    use plimsoll_planner::{Account, Bytes};

    /// A device that keeps rows as they come, by the tensor's offset, and notes what it was told.
    #[derive(Debug, Default)]
    struct Rows {
        cleared: Vec<Handle>,
        rows: BTreeMap<u64, BTreeMap<usize, Vec<f32>>>,
        written: usize,
    }

    impl Store for Rows {
        type On = ();
        type Exchange = ();

        fn reserve((): (), _: &Ledger, _: usize, _: &Layout) -> Result<(Rows, ()), ArenaError> {
            Ok((Rows::default(), ()))
        }

        fn holds(&self, _: Account, _: Bytes) -> bool {
            true
        }

        fn release(&mut self, _: &Ledger, _: Account) -> Result<Bytes, ArenaError> {
            Ok(Bytes::ZERO)
        }

        fn restore(&mut self, _: &Ledger, _: Account, _: Bytes) -> Result<Bytes, ArenaError> {
            Ok(Bytes::ZERO)
        }

        fn derive(&mut self, _: &ModelParams) {}

        fn clear(&mut self, tensor: Handle) {
            self.cleared.push(tensor);
        }

        fn fill(
            &mut self,
            to: &Matrix,
            rows: Range<usize>,
            read: &ReadRows<'_>,
        ) -> Result<(), ModelError> {
            assert_eq!(to.dtype, Dtype::Float32, "this double keeps f32");
            let kept = self.rows.entry(to.weight.region.offset).or_default();
            for row in rows {
                let mut bytes = vec![0; to.cols * 4];
                read(row..row + 1, &mut bytes)?;
                let values = bytes.as_chunks::<4>().0.iter().copied();
                let values: Vec<f32> = values.map(f32::from_le_bytes).collect();
                self.written += values.len();
                let again = kept.insert(row, values);
                assert!(again.is_none(), "row {row} of {to:?} twice");
            }
            Ok(())
        }

        fn checksums(&self, of: &[Handle]) -> Vec<u64> {
            vec![0; of.len()]
        }
    }

    /// Counts the numbers that are read.
    #[derive(Debug)]
    struct Counted<'a>(&'a dyn TensorSource, AtomicUsize);

    impl TensorSource for Counted<'_> {
        fn names(&self) -> Vec<&str> {
            self.0.names()
        }

        fn info(&self, name: &str) -> Option<&TensorInfo> {
            self.0.info(name)
        }

        fn read_block(
            &self,
            name: &str,
            rows: Range<usize>,
            cols: Range<usize>,
            out: &mut [f32],
        ) -> Result<(), ModelError> {
            self.1.fetch_add(out.len(), Ordering::Relaxed);
            self.0.read_block(name, rows, cols, out)
        }
    }

    fn tiny() -> Model {
        let folder = "tests/fixtures/models/tiny-llama";
        ModelFolder::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap()
    }

    /// What a load costs, whatever the machine: one decoding and one writing of each number.
    #[test]
    fn each_number_of_a_model_is_read_once_and_written_once_over_all_ranks() {
        let model = tiny();
        let shape = |name: &str| &model.tensors.info(name).unwrap().shape;
        let names = model.tensors.names();
        let stored: usize = names
            .iter()
            .map(|name| shape(name).iter().product::<usize>())
            .sum();
        for ranks in [1, 2] {
            let line = format!("x plan m --tensor-parallel-size {ranks} --kv-cache-size 1Mi");
            let Command::Plan(args) = Cli::parse_from(line.split_whitespace()).command else {
                panic!("not a plan")
            };
            let planned = plan_flags(&args.memory, &model).unwrap();
            let source = Counted(&*model.tensors, AtomicUsize::new(0));
            let (mut written, mut copied) = (0, 0);
            for rank in 0..ranks {
                let layout = Layout::of(&planned.request, &planned.plan, rank);
                let shard = &planned.plan.ranks[rank].shard;
                let mut device = Rows::default();
                let shape = &model.shape;
                let weights = &layout.weights;
                assert!(load(&source, shape, shard, weights, &mut device, |_| true).unwrap());
                // Only a split's columns that are not whole units leave rows to nobody.
                let uneven = padded_mlp_columns(shard) > shard.mlp_columns.len() as u64;
                assert_eq!(device.cleared.is_empty(), !uneven, "{ranks} ranks");
                written += device.written;
                // Norms stand whole on every rank.
                let norms = |place: &&TensorPlace| place.form == Form::Vector;
                let norms = weights.places().iter().filter(norms);
                copied += match rank {
                    0 => 0,
                    _ => norms
                        .map(|p| usize::try_from(p.rows * p.cols).unwrap())
                        .sum(),
                };
            }
            let read = source.1.into_inner();
            assert_eq!(read, stored + copied, "{ranks} ranks");
            // Columns of a split are padded with zeros when they are not whole units.
            assert!(
                written >= read && written < read + read / 4,
                "{written} of {read}"
            );
        }
    }

    #[test]
    fn a_device_that_keeps_rows_has_the_files_rows() {
        let model = tiny();
        let Command::Plan(args) = Cli::parse_from("x plan m".split_whitespace()).command else {
            panic!("not a plan")
        };
        let planned = plan_flags(&args.memory, &model).unwrap();
        let layout = Layout::of(&planned.request, &planned.plan, 0);
        let shard = &planned.plan.ranks[0].shard;
        let mut device = Rows::default();
        let (source, weights) = (&*model.tensors, &layout.weights);
        assert!(load(source, &model.shape, shard, weights, &mut device, |_| true).unwrap());
        let at = |tensor| weights.get(tensor).unwrap().offset;
        let heads = (model.shape.query_heads * model.shape.head_dim) as usize;
        let mlp = usize::try_from(padded_mlp_columns(shard)).unwrap();
        for (name, offset, first_row) in [
            ("model.norm.weight", at(Tensor::FinalNorm), 0),
            (
                "model.layers.0.self_attn.k_proj.weight",
                at(Tensor::Qkv { layer: 0 }),
                heads,
            ),
            (
                "model.layers.1.mlp.up_proj.weight",
                at(Tensor::GateUp { layer: 1 }),
                mlp,
            ),
        ] {
            let shape = &model.tensors.info(name).unwrap().shape;
            let (rows, cols) = (shape[0], shape.get(1).copied().unwrap_or(1));
            let mut expected = vec![0.0; rows * cols];
            source
                .read_block(name, 0..rows, 0..cols, &mut expected)
                .unwrap();
            let kept = &device.rows[&offset];
            let kept: Vec<f32> = (0..rows)
                .flat_map(|row| kept[&(first_row + row)].clone())
                .collect();
            assert_eq!(kept, expected, "{name}");
        }
    }
}
