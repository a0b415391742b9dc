//! Is there a split under given caps, and which one? Exact, by dynamic programming over ranks.
//!
//! A state is (query heads, MLP units) that the ranks before have taken; its value is the most
//! vocabulary units that this rank and the ones after it can hold. Vocabulary is the finest unit,
//! so maximising it decides whether the rest of the model fits.

use std::ops::RangeInclusive;

use super::costs::{Costs, Level};
use super::share::{Cost, Heads};

/// A question: a cache length and caps under which every rank must stay.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) costs: &'a Costs,
    /// Bytes each rank may use.
    pub(crate) budgets: &'a [u64],
    /// Bytes each rank's KV cache may have.
    pub(crate) kv_size: Option<u64>,
    /// Per rank, the shares of attention it may take (indices into `costs.heads`), preferred first.
    pub(crate) options: &'a [Vec<usize>],
    /// Blocks of KV, null block not counted.
    pub(crate) blocks: u64,
    /// Most bytes a rank may read in a step.
    pub(crate) step_bytes: u64,
    /// Query heads each rank may have.
    pub(crate) queries: RangeInclusive<u32>,
    /// MLP units each rank may have.
    pub(crate) columns: RangeInclusive<usize>,
}

/// One rank's share, in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Index into `costs.heads`.
    pub(crate) heads: usize,
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// Most vocabulary units one rank can hold beside other shares; `None`: not even zero.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    /// When all units are whole.
    whole: Option<usize>,
    /// When one of them is the last, shorter one (at least one unit).
    with_last: Option<usize>,
}

/// Is the shorter last vocabulary unit still to be placed, or with an earlier rank?
const TO_PLACE: usize = 0;
const PLACED: usize = 1;

/// The answer to an [`Ask`] that has one.
#[derive(Debug)]
pub(crate) struct Reach<'a> {
    ask: Ask<'a>,
    /// Per rank: rooms by (option, MLP units, holds the last MLP unit).
    rooms: Vec<Vec<Room>>,
    /// Per rank and one past the last: most vocabulary units by state.
    values: Vec<Vec<Option<usize>>>,
}

/// Answers `ask`, or says that nothing fits.
pub(crate) fn reach(ask: Ask<'_>) -> Option<Reach<'_>> {
    let ranks = ask.budgets.len();
    let level = ask.costs.level(ask.blocks);
    let mut rooms: Vec<Vec<Room>> = Vec::with_capacity(ranks);
    for rank in 0..ranks {
        // Ranks of equal budgets and options have equal rooms; rank 0 alone holds summed biases.
        let twin = (1..rank).find(|other| {
            ask.budgets[*other] == ask.budgets[rank] && ask.options[*other] == ask.options[rank]
        });
        let of_rank = match twin {
            Some(twin) => rooms[twin].clone(),
            None => ask.rooms(&level, rank),
        };
        rooms.push(of_rank);
    }
    let mut reach = Reach {
        ask,
        rooms,
        values: Vec::new(),
    };
    reach.fill();
    let all = reach.rows_total();
    let most = reach.values[0][reach.ask.state(0, 0, TO_PLACE)];
    (most? >= all).then_some(reach)
}

impl Ask<'_> {
    fn columns_total(&self) -> usize {
        self.costs.columns[0].len() - 1
    }

    fn state(&self, heads: u32, columns: usize, last: usize) -> usize {
        (heads as usize * (self.columns_total() + 1) + columns) * 2 + last
    }

    fn states(&self) -> usize {
        (self.costs.query_heads as usize + 1) * (self.columns_total() + 1) * 2
    }

    fn room_index(&self, option: usize, columns: usize, last: bool) -> usize {
        (option * (self.columns_total() + 1) + columns) * 2 + usize::from(last)
    }

    fn rooms(&self, level: &Level, rank: usize) -> Vec<Room> {
        let mut rooms = Vec::with_capacity(self.options[rank].len() * self.columns_total() * 2);
        for option in &self.options[rank] {
            let heads = &self.costs.heads[*option];
            let kv = self.costs.kv_bytes(level, heads);
            let allowed =
                self.queries.contains(&heads.queries) && self.kv_size.is_none_or(|size| kv <= size);
            for columns in 0..=self.columns_total() {
                for last in [false, true] {
                    let allowed = allowed && self.columns.contains(&columns);
                    let cost = &self.costs.columns[usize::from(last)][columns];
                    let room = match allowed {
                        true => self.room(level, rank, heads, cost),
                        false => Room::default(),
                    };
                    rooms.push(room);
                }
            }
        }
        rooms
    }

    fn room(&self, level: &Level, rank: usize, heads: &Heads, columns: &Cost) -> Room {
        let first = rank == 0;
        let fits = |rows: &Cost| {
            self.costs.total(level, first, heads, columns, rows) <= self.budgets[rank]
                && self.costs.step(self.blocks, first, heads, columns, rows) <= self.step_bytes
        };
        let most = |rows: &[Cost]| rows.partition_point(fits).checked_sub(1);
        let whole = most(&self.costs.rows[0]);
        let with_last = match whole.is_some() && self.costs.last_rows_short {
            true => most(&self.costs.rows[1]).filter(|rows| *rows > 0),
            false => None,
        };
        Room { whole, with_last }
    }

    /// Bytes that `rank` of a split reads in a step.
    pub(crate) fn step_of(&self, rank: usize, share: &Share, split: &[Share]) -> u64 {
        let later = &split[rank + 1..];
        let last_columns = share.columns > 0 && later.iter().all(|other| other.columns == 0);
        let last_rows = share.rows > 0 && later.iter().all(|other| other.rows == 0);
        self.costs.step(
            self.blocks,
            rank == 0,
            &self.costs.heads[share.heads],
            &self.costs.columns[usize::from(last_columns)][share.columns],
            &self.costs.rows[usize::from(last_rows)][share.rows],
        )
    }

    /// Query heads taken after a rank takes `heads` at `taken`: whole groups start at a group,
    /// and a part stays inside one.
    fn next(&self, taken: u32, heads: &Heads) -> Option<u32> {
        let within = taken % self.costs.group;
        let legal = match heads.queries % self.costs.group {
            0 => within == 0 || heads.queries == 0,
            part => within + part <= self.costs.group,
        };
        let after = taken + heads.queries;
        (legal && after <= self.costs.query_heads).then_some(after)
    }
}

impl Reach<'_> {
    fn rows_total(&self) -> usize {
        self.ask.costs.rows[0].len() - 1
    }

    fn room(&self, rank: usize, option: usize, taken: usize, columns: usize) -> Room {
        let last = columns > 0 && taken + columns == self.ask.columns_total();
        self.rooms[rank][self.ask.room_index(option, columns, last)]
    }

    /// Values from the last rank to the first.
    fn fill(&mut self) {
        let ask = &self.ask;
        let ranks = ask.budgets.len();
        let reachable = reachable(ask);
        let mut end = vec![None; ask.states()];
        let last = if ask.costs.last_rows_short {
            PLACED
        } else {
            TO_PLACE
        };
        end[ask.state(ask.costs.query_heads, ask.columns_total(), last)] = Some(0);
        let mut values = vec![end];
        for rank in (0..ranks).rev() {
            let after = &values[values.len() - 1];
            let mut value = vec![None; ask.states()];
            // The first rank starts with nothing taken.
            let most_taken = if rank == 0 { 0 } else { ask.columns_total() };
            for heads in (0..=ask.costs.query_heads).filter(|h| reachable[rank][*h as usize]) {
                for columns in 0..=most_taken {
                    let [open, placed] = self.best(rank, heads, columns, after);
                    value[ask.state(heads, columns, TO_PLACE)] = open;
                    value[ask.state(heads, columns, PLACED)] = placed;
                }
            }
            values.push(value);
        }
        values.reverse();
        self.values = values;
    }

    fn best(
        &self,
        rank: usize,
        heads: u32,
        columns: usize,
        after: &[Option<usize>],
    ) -> [Option<usize>; 2] {
        let ask = &self.ask;
        let mut best = [None; 2];
        for (option, index) in ask.options[rank].iter().enumerate() {
            let Some(next) = ask.next(heads, &ask.costs.heads[*index]) else {
                continue;
            };
            for more in 0..=ask.columns_total() - columns {
                let room = self.room(rank, option, columns, more);
                let Some(whole) = room.whole else { continue };
                let open = after[ask.state(next, columns + more, TO_PLACE)].map(|v| v + whole);
                let placed = after[ask.state(next, columns + more, PLACED)];
                let here = placed.and_then(|v| room.with_last.map(|rows| v + rows));
                best[TO_PLACE] = best[TO_PLACE].max(open).max(here);
                best[PLACED] = best[PLACED].max(placed);
            }
        }
        best
    }

    /// The split that gives the lowest rank the most heads, then the most MLP units, and spreads
    /// the vocabulary as evenly as the rooms allow.
    pub(crate) fn choose(&self) -> Vec<Share> {
        let ask = &self.ask;
        let all = self.rows_total();
        let (mut heads, mut columns) = (0, 0);
        // Most vocabulary units of the ranks so far: without the short last unit, and with it.
        let (mut rows, mut rows_with_last) = (0, None::<usize>);
        let mut chosen = Vec::with_capacity(ask.budgets.len());
        let mut rooms = Vec::with_capacity(ask.budgets.len());
        for rank in 0..ask.budgets.len() {
            let after = &self.values[rank + 1];
            let candidates = ask.options[rank]
                .iter()
                .enumerate()
                .flat_map(|(option, index)| {
                    (0..=ask.columns_total() - columns)
                        .rev()
                        .map(move |more| (option, *index, more))
                });
            let mut candidates = candidates.into_iter();
            let pick = candidates.find_map(|(option, index, more)| {
                let next = ask.next(heads, &ask.costs.heads[index])?;
                let room = self.room(rank, option, columns, more);
                let whole = room.whole?;
                let open = after[ask.state(next, columns + more, TO_PLACE)];
                let placed = after[ask.state(next, columns + more, PLACED)];
                let most = [
                    open.map(|v| rows + whole + v),
                    placed.zip(room.with_last).map(|(v, here)| rows + here + v),
                    placed.zip(rows_with_last).map(|(v, before)| before + v),
                ];
                let enough = most.into_iter().max()?? >= all;
                enough.then_some((index, next, more, room))
            });
            // `reach` found a split, and every pick keeps one: the search cannot run dry.
            let (index, next, more, room) = pick.expect("a split that reach found");
            rows_with_last = rows_with_last.max(room.with_last.map(|here| rows + here));
            rows += room.whole.unwrap_or(0);
            heads = next;
            columns += more;
            rooms.push(room);
            chosen.push(Share {
                heads: index,
                columns: more,
                rows: 0,
            });
        }
        for (share, rows) in chosen.iter_mut().zip(self.spread(&rooms)) {
            share.rows = rows;
        }
        chosen
    }

    /// Vocabulary units per rank: as level as the rooms allow, the extra ones at the lowest ranks.
    fn spread(&self, rooms: &[Room]) -> Vec<usize> {
        let all = self.rows_total();
        let mut limits: Vec<usize> = rooms.iter().map(|room| room.whole.unwrap_or(0)).collect();
        let mut holder = None;
        if self.ask.costs.last_rows_short {
            // The last rank that can hold the short unit while the ranks before hold the rest.
            holder = (0..rooms.len()).rev().find(|rank| {
                rooms[*rank]
                    .with_last
                    .is_some_and(|here| limits[..*rank].iter().sum::<usize>() + here >= all)
            });
            if let Some(rank) = holder {
                limits[rank] = rooms[rank].with_last.unwrap_or(0);
                limits[rank + 1..].fill(0);
            }
        }
        let least = |rank: usize| usize::from(holder == Some(rank));
        let at = |level: usize| -> Vec<usize> {
            let of_rank = |(rank, limit): (usize, &usize)| level.min(*limit).max(least(rank));
            limits.iter().enumerate().map(of_rank).collect()
        };
        let levels: Vec<usize> = (0..=all).collect();
        let level = levels.partition_point(|level| at(*level).iter().sum::<usize>() < all);
        let mut rows = at(level);
        let mut extra = rows.iter().sum::<usize>().saturating_sub(all);
        for rank in (0..rows.len()).rev() {
            if extra > 0 && rows[rank] == level && rows[rank] > least(rank) {
                rows[rank] -= 1;
                extra -= 1;
            }
        }
        rows
    }
}

/// Per rank, which numbers of query heads the ranks before it can have taken.
fn reachable(ask: &Ask<'_>) -> Vec<Vec<bool>> {
    let mut now = vec![false; ask.costs.query_heads as usize + 1];
    now[0] = true;
    let mut all = vec![now];
    for options in ask.options {
        let before = &all[all.len() - 1];
        let mut next = vec![false; before.len()];
        for heads in (0..=ask.costs.query_heads).filter(|h| before[*h as usize]) {
            for option in options {
                if let Some(after) = ask.next(heads, &ask.costs.heads[*option]) {
                    next[after as usize] = true;
                }
            }
        }
        all.push(next);
    }
    all
}
