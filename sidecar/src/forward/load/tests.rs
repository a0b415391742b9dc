//! Each number is read once and lies where the layout says, over all ranks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;

use super::*;
use crate::args::{Cli, Command};
use crate::cache::blocks::Move;
use crate::config::plan_flags;
use crate::forward::backend::{HostAdapters, ReadRows};
use crate::forward::handle::Handle;
use crate::forward::layout::Layout;
use crate::forward::testing::{Block, Through};
use crate::memory::arena::ArenaError;
use crate::memory::ledger::Ledger;
use crate::model::{Model, ModelFolder, ModelParams};
use plimsoll_planner::weights::{self, Form};
use plimsoll_planner::{Account, Bytes};

/// A device that keeps rows as they come, by the tensor's offset, and notes what it was told.
#[derive(Debug, Default)]
struct Rows {
    cleared: Vec<Handle>,
    rows: BTreeMap<u64, BTreeMap<usize, Vec<f32>>>,
    written: usize,
}

impl Store for Rows {
    fn write(&mut self, _: Handle, _: usize, _: &[f32]) {
        unreachable!("no adapters")
    }

    fn lay_beside(&mut self, _: Option<Box<dyn HostAdapters>>) -> Option<Box<dyn HostAdapters>> {
        unreachable!("nothing is computed")
    }

    fn set_ranks(&mut self, _: usize, _: &[u32]) {
        unreachable!("no adapters")
    }

    type On = ();
    type Exchange = ();

    fn reserve((): (), _: &Ledger, _: usize, _: &Layout, _: u32) -> Result<(Rows, ()), ArenaError> {
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

    fn trim(&mut self, _: &Ledger, _: Account, _: Bytes) -> Result<Bytes, ArenaError> {
        Ok(Bytes::ZERO)
    }

    fn copy_blocks(&mut self, _: &[Move]) {}

    fn reach(&mut self, _: &Layout) {}

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

    fn copies(&self, of: &[Handle]) -> Vec<Option<u64>> {
        vec![None; of.len()]
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
        let read = AtomicUsize::new(0);
        let source = Through {
            inner: &*model.tensors,
            read: |inner: &dyn TensorSource, name: &str, [rows, cols]: Block, out: &mut [f32]| {
                read.fetch_add(out.len(), Ordering::Relaxed);
                inner.read_block(name, rows, cols, out)
            },
        };
        let (mut written, mut copied) = (0, 0);
        for rank in 0..ranks {
            let layout = Layout::of(&planned.request, &planned.plan, rank);
            let shard = &planned.plan.ranks[rank].shard;
            let mut device = Rows::default();
            let shape = &model.shape;
            let weights = &layout.weights;
            assert!(load(&source, shape, shard, weights, &mut device, |_| true).unwrap());
            assert!(device.cleared.is_empty(), "all rows come from the files");
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
        let read = read.load(Ordering::Relaxed);
        assert_eq!(read, stored + copied, "{ranks} ranks");
        // Columns of a split are padded with zeros when they are not whole units.
        assert!(
            written >= read && written < read + read / 4,
            "{written} of {read}"
        );
    }
}

/// Columns that are no whole panels: the places have more rows than the files, or wider ones.
#[test]
fn rows_and_columns_that_no_file_has_are_zero() {
    let model = tiny();
    let Command::Plan(args) = Cli::parse_from("x plan m".split_whitespace()).command else {
        panic!("not a plan")
    };
    let planned = plan_flags(&args.memory, &model).unwrap();
    let mut shard = planned.plan.ranks[0].shard.clone();
    shard.mlp_columns = 0..350;
    let layout = weights::layout(&model.shape, &shard, Dtype::Float32, 0);
    let mut device = Rows::default();
    let source = &*model.tensors;
    assert!(load(source, &model.shape, &shard, &layout, &mut device, |_| true).unwrap());
    let at = |tensor| layout.get(tensor).unwrap().offset;
    let layers = 0..model.shape.layers;
    let gate_ups = layers.clone().map(|layer| at(Tensor::GateUp { layer }));
    let cleared = device.cleared.iter().map(|handle| handle.region.offset);
    assert!(cleared.eq(gate_ups.clone()));
    for place in gate_ups {
        let rows = &device.rows[&place];
        assert!(rows.len() == 2 * 350 && rows.contains_key(&352) && !rows.contains_key(&351));
    }
    for down in layers.map(|layer| at(Tensor::Down { layer })) {
        let mut rows = device.rows[&down].values();
        assert!(rows.all(|row| row.len() == 352 && row[350..] == [0.0; 2]));
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
