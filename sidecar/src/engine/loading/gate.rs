//! What is held to before an adapter answers anybody: a few fixed tokens, computed with it and without.

use plimsoll_kernels::sampling::Params;

use crate::engine::probe::prompt;
use crate::engine::ranks::Failure;
use crate::engine::run::Loop;
use crate::forward::input::{SampleRow, StepInput};

impl Loop {
    /// How far the adapter in a slot moves the logits of the probe, as a share of their length. The
    /// inner error says why it is not to be served. No step may be under way.
    pub(super) fn try_adapter(
        &mut self,
        slot: usize,
        name: &str,
    ) -> Result<Result<Option<f64>, String>, Failure> {
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        let config = self.scheduler.config();
        let room = self.shared.facts.max_model_len as usize;
        let count = room.min(config.max_num_batched_tokens);
        let prompt = prompt(&self.shared.facts, count);
        let needed = prompt.len().div_ceil(config.block_size);
        let blocks = self.scheduler.lend(needed);
        assert_eq!(blocks.len(), needed, "the cache holds the longest sequence");
        let mut input = StepInput::default();
        input.clear();
        describe(&mut input, &prompt, &blocks, config.block_size);
        let with = (0..).zip(&prompt).map(|(row, _)| row).collect();
        let without = self.answer_of(&input, Vec::new(), slot);
        let with = without.and_then(|without| Ok((without, self.answer_of(&input, with, slot)?)));
        self.scheduler.take_back(&blocks);
        self.ranks.forget_logits();
        let (without, with) = with?;
        Ok(self.judge_adapter(name, &without, &with))
    }

    /// The logits of the prompt's last token.
    fn answer_of(
        &mut self,
        of: &StepInput,
        rows: Vec<u32>,
        slot: u32,
    ) -> Result<Vec<f32>, Failure> {
        self.ranks.submit(|input| {
            input.clear();
            input.clone_from(of);
            input.adapted_slots = vec![slot; rows.len()];
            input.adapted_rows = rows;
        })?;
        let outputs = self.ranks.collect()?;
        let logits = outputs
            .iter()
            .flat_map(|output| output.logits.iter().copied());
        Ok(logits.collect())
    }

    fn judge_adapter(
        &self,
        name: &str,
        without: &[f32],
        with: &[f32],
    ) -> Result<Option<f64>, String> {
        if with.iter().any(|logit| !logit.is_finite()) {
            return Err(format!(
                "adapter `{name}`: a probe of fixed tokens has logits that are not numbers: what it adds \
                 is too large for the weights"
            ));
        }
        let squares = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>();
        let pairs = with.iter().zip(without);
        let change = squares(&mut pairs.map(|(is, was)| f64::from(*is) - f64::from(*was)));
        let length = squares(&mut without.iter().map(|was| f64::from(*was)));
        let change = (change / length.max(f64::MIN_POSITIVE)).sqrt();
        let same = (change == 0.0).then(|| {
            format!(
                "adapter `{name}`: a probe of fixed tokens is answered as without, bit for bit; serve it \
                 all the same (--adapter-validation report) if that is meant"
            )
        });
        self.judge(same).map(|()| Some(change))
    }
}

/// A whole prompt in its own blocks, after which a token would be drawn.
fn describe(input: &mut StepInput, prompt: &[u32], blocks: &[u32], block_size: usize) {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let count = number(prompt.len());
    input.ids.extend_from_slice(prompt);
    input.positions.extend(0..count);
    let slot = |token: usize| {
        let block = u64::from(blocks[token / block_size]);
        block * block_size as u64 + (token % block_size) as u64
    };
    input.slots.extend((0..prompt.len()).map(slot));
    input.query_start.push(count);
    input.context_len.push(count);
    input.block_tables.extend_from_slice(blocks);
    input.table_stride = blocks.len();
    input.samples.push(SampleRow {
        params: Params::default(),
        row: count - 1,
        position: count,
        seen: [0; 2],
        drawn: None,
        bias: [0; 2],
        target: None,
    });
    input.keep_logits = true;
}
