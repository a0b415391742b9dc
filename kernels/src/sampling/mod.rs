//! Sampling: from logits, cut into vocabulary shards, to one token per row.
//!
//! Every split of the vocabulary draws the same token: what shards exchange is a maximum or an
//! integer sum, which do not depend on how the vocabulary is cut. For each row:
//!
//! 1. biases, then penalties; the largest logit over all shards (greedy rows end here; ties: the lowest id);
//! 2. weights exp((x - max) / temperature) as integers; thresholds: min-p on the weight itself, then
//!    top-k, then top-p of what top-k left (`threshold`);
//! 3. an exponential race (`race`): every runner needs E / weight with E exponentially distributed
//!    from its own random number, the smallest wins, with probability weight / sum. (It is the
//!    Gumbel-max trick, without its logarithm of a logarithm.)
//!
//! Log-probabilities are of the model's logits, before biases, penalties and temperature. A row whose
//! token is given (a prompt that is scored) has them alone.

mod logarithm;
mod outcome;
mod params;
mod passes;
mod penalty;
mod race;
mod random;
mod rounds;
mod row;
mod seen;
mod threshold;
mod weight;

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "gpu-tests")]
pub(crate) mod trials;

#[cfg(test)]
mod tests;

use crate::comm::{Collective, RankFailed};
use crate::pool::Pool;

pub use params::{MAX_LOGPROBS, Params};
pub use seen::{Counts, Seen};

use rounds::Rounds;
use row::Work;

/// Words of scratch per row.
pub const SCRATCH_WORDS: usize = SHARD_ROWS_MAX / 64;
/// Rows of vocabulary that one shard may have: the scratch holds a bit for each.
pub const SHARD_ROWS_MAX: usize = plimsoll_planner::limits::VOCABULARY.most as usize;

/// Words of the last exchange: score, token, its logit, sum of weights; then candidates.
const RECORD_WORDS: usize = 4;

/// The rows of the vocabulary that this rank has. Shards ascend with the rank, and begin at
/// multiples of 64 (the planner cuts there).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VocabShard {
    pub first: u32,
    pub rows: u32,
}

impl VocabShard {
    fn row(&self, id: u32) -> Option<usize> {
        let row = id.checked_sub(self.first)?;
        (row < self.rows).then_some(row as usize)
    }
}

/// One sequence whose next token is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub params: &'a Params,
    /// The sequence's tokens, by ascending ids: read only when the row has penalties.
    pub seen: &'a [Seen],
    /// One more token of its output, that `seen` does not count yet.
    pub drawn: Option<u32>,
    /// Added to the logits of these tokens before penalties: ids ascend, each is there once, and
    /// minus infinity keeps a token from being drawn.
    pub bias: &'a [(u32, f32)],
    /// The token is given, not drawn: only its log-probability is wanted. Needs greedy parameters.
    pub target: Option<u32>,
    /// The token's index in its sequence: the counter of the random numbers.
    pub position: u32,
}

impl Row<'_> {
    /// Whether logits change before a token is chosen.
    fn changes(&self) -> bool {
        self.params.penalised() || !self.bias.is_empty()
    }
}

/// A drawn token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampled {
    pub id: u32,
    /// False when no logit was a number; `id` then means nothing.
    pub finite: bool,
    pub logprobs: Option<Logprobs>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the drawn token.
    pub logprob: f32,
    /// The most likely tokens, most likely first.
    pub top: Vec<(u32, f32)>,
}

/// What a rank keeps between steps, so that steps allocate little.
#[derive(Debug, Default)]
pub struct Sampler {
    exchange: Exchange,
    /// Per row: logits before penalties.
    before: Vec<Vec<(u32, f32)>>,
}

/// Words of this rank on their way out, and of all ranks (`[ranks, words]`).
#[derive(Debug, Default)]
struct Exchange {
    words: Vec<u64>,
    all: Vec<u64>,
}

impl Exchange {
    /// Collects every rank's words into `all`.
    fn gather(
        &mut self,
        comm: &mut dyn Collective,
        words: impl Iterator<Item = u64>,
    ) -> Result<(), RankFailed> {
        self.words.clear();
        self.words.extend(words);
        self.all.clear();
        self.all.resize(self.words.len() * comm.ranks(), 0);
        comm.all_gather(&self.words, &mut self.all)
    }
}

/// Draws one token per row; every rank gets the same tokens.
///
/// `logits` is `[rows, shard.rows]` and is changed; `scratch` is `[rows, SCRATCH_WORDS]`.
///
/// # Errors
/// When a rank failed.
///
/// # Panics
/// When a slice does not fit.
#[expect(
    clippy::too_many_arguments,
    reason = "who computes, what is drawn from, where it goes"
)]
pub fn run(
    pool: &Pool,
    comm: &mut dyn Collective,
    sampler: &mut Sampler,
    shard: VocabShard,
    rows: &[Row<'_>],
    logits: &mut [f32],
    scratch: &mut [u64],
    out: &mut Vec<Sampled>,
) -> Result<(), RankFailed> {
    let width = shard.rows as usize;
    assert!(
        width <= SHARD_ROWS_MAX,
        "{width} vocabulary rows, at most {SHARD_ROWS_MAX}"
    );
    assert!(
        shard.first.is_multiple_of(64) || width == 0,
        "a shard begins at {}, within a block of 64",
        shard.first
    );
    assert_eq!(
        logits.len(),
        rows.len() * width,
        "logits are not [{}, {width}]",
        rows.len()
    );
    assert!(
        scratch.len() >= rows.len() * SCRATCH_WORDS,
        "scratch is too short"
    );
    for row in rows {
        let ascends = row.bias.is_sorted_by(|a, b| a.0 < b.0);
        assert!(ascends, "the ids of a bias do not ascend");
        let given = row.target.is_some();
        assert!(!given || row.params.greedy(), "a row is given and drawn");
    }
    out.clear();
    if rows.is_empty() {
        return Ok(());
    }
    let Sampler { exchange, before } = sampler;
    before.resize_with(before.len().max(rows.len()), Vec::new);
    let mut logits = logits;
    let mut work: Vec<Work<'_>> = Vec::with_capacity(rows.len());
    let kept = before.iter_mut().zip(scratch.chunks_mut(SCRATCH_WORDS));
    for (row, (before, scratch)) in rows.iter().zip(kept) {
        let (own, rest) = logits.split_at_mut(width);
        logits = rest;
        work.push(Work::new(*row, pool.isa(), shard, own, scratch, before));
    }

    if comm.ranks() == 1 {
        // Nobody is waited for: each row goes all the way while it lies in the cache.
        pool.run_rows(&mut work, 1, 1, |_, work| {
            let work = &mut work[0];
            work.penalise_and_find_largest();
            work.weigh();
            work.search_alone();
            work.draw();
        });
    } else {
        draw_together(pool, comm, exchange, &mut work)?;
    }
    hand_out(comm, exchange, &work, out)
}

/// All rows go from one exchange to the next together.
fn draw_together(
    pool: &Pool,
    comm: &mut dyn Collective,
    exchange: &mut Exchange,
    work: &mut [Work<'_>],
) -> Result<(), RankFailed> {
    pool.run_rows(work, 1, 1, |_, work| work[0].penalise_and_find_largest());
    exchange.gather(comm, work.iter().flat_map(|work| work.largest))?;
    let words = 2 * work.len();
    for (at, work) in work.iter_mut().enumerate() {
        let of_ranks = exchange.all.chunks(words).map(|all| &all[2 * at..][..2]);
        let larger = |a: [u64; 2], b: &[u64]| [a[0].max(b[0]), a[1].max(b[1])];
        work.largest = of_ranks.fold([0; 2], larger);
    }
    pool.run_rows(work, 1, 1, |_, work| work[0].weigh());
    loop {
        let rows = || work.iter().filter_map(|work| work.rounds.as_ref());
        let words: usize = rows().map(Rounds::words).sum();
        if words == 0 {
            break;
        }
        pool.run_rows(work, 1, 1, |_, work| work[0].count());
        let rows = work.iter().filter_map(|work| work.rounds.as_ref());
        exchange.gather(comm, rows.flat_map(Rounds::sent).copied())?;
        let (mut at, rank) = (0, comm.rank());
        for rounds in work.iter_mut().filter_map(|work| work.rounds.as_mut()) {
            let own = rounds.words();
            if own > 0 {
                let all = exchange.all.chunks(words);
                rounds.take(all.map(|all| &all[at..][..own]), rank);
            }
            at += own;
        }
    }
    pool.run_rows(work, 1, 1, |_, work| work[0].draw());
    Ok(())
}

/// The last exchange: what every rank's fastest is, and the tokens that follow from it.
fn hand_out(
    comm: &mut dyn Collective,
    exchange: &mut Exchange,
    work: &[Work<'_>],
    out: &mut Vec<Sampled>,
) -> Result<(), RankFailed> {
    let wanted = work.iter().map(Work::candidates_wanted);
    let words = RECORD_WORDS + wanted.max().unwrap_or(0);
    let needed = work
        .iter()
        .any(|work| work.draws() || work.row.params.logprobs.is_some());
    if needed {
        exchange.gather(comm, work.iter().flat_map(|work| work.record(words)))?;
    }
    for (at, one) in work.iter().enumerate() {
        let of_ranks = exchange.all.chunks(work.len() * words);
        let records = of_ranks.map(|all| &all[at * words..][..words]);
        out.push(one.result(if needed { Some(records) } else { None }));
    }
    Ok(())
}
