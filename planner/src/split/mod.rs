//! Who holds which shard: the tensor split.
//!
//! Among all splits that fit: the most tokens of KV (up to those wanted), then the least bytes
//! that the busiest rank reads in a step (to one part in 128), then the most even, then the most on the lowest ranks.

mod context;
mod costs;
mod probe;
mod reach;
mod share;

use std::ops::RangeInclusive;

pub(crate) use context::max_model_len;
use costs::Costs;
use reach::{Ask, Share, reach};

use crate::kv_cache::blocks_for;
use crate::request::Request;
use crate::shard::{MLP_UNIT_COLUMNS, Shard, VOCAB_UNIT_ROWS};

/// A derived `maxModelLen` never shrinks below this many tokens (or the model's own context, if
/// that is shorter): a server that answers nothing useful is refused instead.
pub const LEAST_CONTEXT: u32 = 256;
/// Block numbers fit an i32, so that every kernel may use one.
pub(crate) const MOST_BLOCKS: u64 = (1 << 31) - 1;
/// Steps that differ by less than one part in this many count as equally fast: the prediction is no
/// finer, and an even split is easier to read than one that saves a row.
const STEP_TOLERANCE: u64 = 128;
/// Steps of one exact search over heads, MLP units and ranks at once; beyond it heads are searched
/// first, with MLP and vocabulary bundled.
const MOST_STEPS: u64 = 1_500_000;

/// How the heads may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Whole KV-head groups; a rank may have none.
    Whole,
    /// Also parts of a group, whose KV head then stands on every rank that has a part.
    Divided,
    /// As `Divided`, and no rank without heads.
    DividedOverAll,
}

/// A request with its cost tables.
#[derive(Debug)]
pub(crate) struct Problem<'a> {
    request: &'a Request,
    costs: Costs,
    bundled: Option<Costs>,
    pub(crate) budgets: Vec<u64>,
    kv_size: Option<u64>,
}

/// A split that fits, and the length of the KV cache it was chosen for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) shards: Vec<Shard>,
    /// The smaller of what fits and what is wanted; null block not counted.
    pub(crate) blocks: u64,
}

impl<'a> Problem<'a> {
    /// `budgets`: bytes each rank may use.
    pub(crate) fn new(request: &'a Request, budgets: Vec<u64>) -> Problem<'a> {
        let costs = Costs::new(request);
        let heads = u64::from(request.shape.kv_heads) + 1;
        let columns = costs.columns[0].len() as u64;
        let pairs = (heads * (heads + 1) / 2) * (columns * (columns + 1) / 2);
        let wide = pairs * u64::from(request.rank_count()) > MOST_STEPS;
        Problem {
            request,
            costs,
            bundled: wide.then(|| Costs::bundled(request)),
            budgets,
            kv_size: request.kv.size.map(|size| size.get()),
        }
    }

    /// The best split, if any fits.
    pub(crate) fn solve(&self) -> Option<Split> {
        let blocks = fewest_blocks(self.request)..=blocks_wanted(self.request);
        self.families()
            .into_iter()
            .find_map(|family| self.best(family, blocks.clone()))
    }

    /// The best split, counting no more than `blocks` blocks.
    pub(crate) fn solve_up_to(&self, blocks: u64) -> Option<Split> {
        let blocks = fewest_blocks(self.request)..=blocks_wanted(self.request).min(blocks);
        self.families()
            .into_iter()
            .find_map(|family| self.best(family, blocks.clone()))
    }

    /// Some split that fits with `blocks` blocks, chosen as [`Problem::solve`] chooses.
    pub(crate) fn solve_at(&self, blocks: u64) -> Option<Split> {
        self.families()
            .into_iter()
            .find_map(|family| self.best(family, blocks..=blocks))
    }

    /// Does [`Problem::solve`] find a split?
    pub(crate) fn solvable(&self) -> bool {
        self.fits_within(&self.budgets, fewest_blocks(self.request))
    }

    /// Does any split fit budgets of `budgets` bytes with `blocks` blocks?
    pub(crate) fn fits_within(&self, budgets: &[u64], blocks: u64) -> bool {
        self.families().into_iter().any(|family| {
            let options = self.options(family);
            let answers = |options: &[Vec<usize>]| {
                reach(Ask {
                    budgets,
                    ..self.ask(&self.costs, options, blocks)
                })
                .is_some()
            };
            match &self.bundled {
                None => answers(&options),
                Some(bundled) => {
                    let loose = loosened(budgets, bundled);
                    let ask = Ask {
                        budgets: &loose,
                        ..self.ask(bundled, &options, blocks)
                    };
                    reach(ask).is_some_and(|found| answers(&fixed(&found.choose())))
                }
            }
        })
    }

    /// The most blocks that every rank of a split has room for, null block not counted.
    pub(crate) fn most_blocks(&self, rank_fits: impl Fn(usize, u64) -> bool) -> u64 {
        let fits = |blocks: u64| (0..self.budgets.len()).all(|rank| rank_fits(rank, blocks));
        largest(0..=MOST_BLOCKS - 1, fits).unwrap_or(0)
    }

    /// The ways to cut heads, in order of preference: the next is tried when nothing fits. When
    /// ranks outnumber KV heads, every rank gets a part of attention if it can; otherwise KV heads
    /// are copied only when whole groups do not fit, because a copy costs its KV cache twice.
    fn families(&self) -> Vec<Family> {
        match self.request.rank_count() > self.request.shape.kv_heads {
            true => vec![Family::DividedOverAll, Family::Whole, Family::Divided],
            false => vec![Family::Whole, Family::Divided],
        }
        .into_iter()
        .filter(|family| *family == Family::Whole || self.costs.group > 1)
        .collect()
    }

    fn options(&self, family: Family) -> Vec<Vec<usize>> {
        let heads = &self.costs.heads;
        let allowed = |index: &usize| match family {
            Family::Whole => heads[*index].queries.is_multiple_of(self.costs.group),
            Family::Divided => true,
            Family::DividedOverAll => heads[*index].queries > 0,
        };
        let mut options: Vec<usize> = (0..heads.len()).filter(allowed).collect();
        options.sort_by_key(|index| std::cmp::Reverse(heads[*index].queries));
        vec![options; self.request.ranks.len()]
    }

    fn best(&self, family: Family, blocks: RangeInclusive<u64>) -> Option<Split> {
        let options = self.options(family);
        let (blocks, shares) = match &self.bundled {
            None => optimise(self.ask(&self.costs, &options, *blocks.start()), blocks)?,
            Some(bundled) => {
                let loose = loosened(&self.budgets, bundled);
                let ask = Ask {
                    budgets: &loose,
                    ..self.ask(bundled, &options, *blocks.start())
                };
                let refine = |heads: Vec<Share>| {
                    let fixed = fixed(&heads);
                    optimise(
                        self.ask(&self.costs, &fixed, *blocks.start()),
                        blocks.clone(),
                    )
                };
                let best = optimise(ask.clone(), blocks.clone());
                // The heads of the longest cache may not do for the exact units; those of the
                // shortest are what `fits_within` answers by.
                best.and_then(|(_, heads)| refine(heads))
                    .or_else(|| refine(reach(ask)?.choose()))?
            }
        };
        Some(Split {
            shards: self.shards(&shares),
            blocks,
        })
    }

    fn ask<'b>(&'b self, costs: &'b Costs, options: &'b [Vec<usize>], blocks: u64) -> Ask<'b> {
        Ask {
            costs,
            budgets: &self.budgets,
            kv_size: self.kv_size,
            options,
            blocks,
            step_bytes: u64::MAX,
            queries: 0..=costs.query_heads,
            columns: 0..=costs.columns[0].len() - 1,
        }
    }

    fn shards(&self, shares: &[Share]) -> Vec<Shard> {
        let shape = &self.request.shape;
        let (mut heads, mut columns, mut rows) = (0, 0, 0);
        let mut shard = |share: &Share| {
            let taken = &self.costs.heads[share.heads];
            let kv = heads / self.costs.group;
            let query_heads = heads..heads + taken.queries;
            heads += taken.queries;
            Shard {
                kv_heads: kv..kv + taken.kv,
                query_heads,
                mlp_columns: advance(&mut columns, share.columns, MLP_UNIT_COLUMNS, shape.ffn),
                vocab_rows: advance(&mut rows, share.rows, VOCAB_UNIT_ROWS, shape.vocab),
            }
        };
        shares.iter().map(&mut shard).collect()
    }
}

/// The next `units` units after `end`, of `total` in all.
fn advance(end: &mut u32, units: usize, unit: u32, total: u32) -> std::ops::Range<u32> {
    let start = *end;
    let units = u32::try_from(units).unwrap_or(u32::MAX);
    *end = start.saturating_add(units.saturating_mul(unit)).min(total);
    start..*end
}

/// Budgets with room for one grain more: a bundle is coarser than the units it stands for, and
/// the exact search that follows decides.
fn loosened(budgets: &[u64], bundled: &Costs) -> Vec<u64> {
    budgets
        .iter()
        .map(|budget| budget.saturating_add(bundled.grain_bytes()))
        .collect()
}

/// Options that leave every rank the heads it has.
fn fixed(shares: &[Share]) -> Vec<Vec<usize>> {
    shares.iter().map(|share| vec![share.heads]).collect()
}

/// Blocks without which a request is refused, null block not counted.
pub(crate) fn fewest_blocks(request: &Request) -> u64 {
    let own = request.shape.context.min(LEAST_CONTEXT);
    let tokens = request.limits.max_model_len.unwrap_or(own);
    blocks_for(tokens.into(), request.kv.block_size)
}

/// Blocks that hold every sequence at its longest.
pub(crate) fn blocks_wanted(request: &Request) -> u64 {
    let context = request
        .limits
        .max_model_len
        .unwrap_or(request.shape.context);
    let tokens = u64::from(context) * u64::from(request.limits.max_num_seqs);
    blocks_for(tokens, request.kv.block_size).min(MOST_BLOCKS - 1)
}

/// The best blocks and shares within `ask`'s options. Each criterion becomes a cap for the next.
fn optimise(mut ask: Ask<'_>, blocks: RangeInclusive<u64>) -> Option<(u64, Vec<Share>)> {
    let answers = |ask: &Ask<'_>| reach(ask.clone()).is_some();
    ask.blocks = largest(blocks, |blocks| {
        answers(&Ask {
            blocks,
            ..ask.clone()
        })
    })?;

    // Any split's busiest rank bounds the best one's.
    let found = reach(ask.clone())?.choose();
    let busiest = found
        .iter()
        .enumerate()
        .map(|(rank, share)| ask.step_of(rank, share, &found));
    let busiest = busiest.max()?;
    ask.step_bytes = smallest(0..=busiest, |step_bytes| {
        answers(&Ask {
            step_bytes,
            ..ask.clone()
        })
    })?;

    ask.step_bytes += ask.step_bytes / STEP_TOLERANCE;

    let heads = ask.costs.query_heads;
    let most = smallest(0..=heads.into(), |most| {
        answers(&Ask {
            queries: 0..=narrow(most),
            ..ask.clone()
        })
    })?;
    let least = largest(0..=most, |least| {
        answers(&Ask {
            queries: narrow(least)..=narrow(most),
            ..ask.clone()
        })
    })?;
    ask.queries = narrow(least)..=narrow(most);

    let units = ask.costs.columns[0].len() as u64 - 1;
    let most = smallest(0..=units, |most| {
        answers(&Ask {
            columns: 0..=narrow(most) as usize,
            ..ask.clone()
        })
    })?;
    let least = largest(0..=most, |least| {
        answers(&Ask {
            columns: narrow(least) as usize..=narrow(most) as usize,
            ..ask.clone()
        })
    })?;
    ask.columns = narrow(least) as usize..=narrow(most) as usize;

    let blocks = ask.blocks;
    Some((blocks, reach(ask)?.choose()))
}

fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The largest number of `range` that holds, where what holds for one holds for all smaller ones.
pub(crate) fn largest(range: RangeInclusive<u64>, holds: impl Fn(u64) -> bool) -> Option<u64> {
    let (mut low, mut high) = range.into_inner();
    if low > high || !holds(low) {
        return None;
    }
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        match holds(middle) {
            true => low = middle,
            false => high = middle - 1,
        }
    }
    Some(low)
}

/// The smallest number of `range` that holds, where what holds for one holds for all larger ones.
pub(crate) fn smallest(range: RangeInclusive<u64>, holds: impl Fn(u64) -> bool) -> Option<u64> {
    let (mut low, mut high) = range.into_inner();
    if low > high || !holds(high) {
        return None;
    }
    while low < high {
        let middle = low + (high - low) / 2;
        match holds(middle) {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    Some(low)
}
