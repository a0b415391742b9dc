//! A group of ranks that share the memory of one process.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::element::Element;
use crate::pool::Pool;

use super::exchange::Exchange;
use super::meeting::Meeting;
use super::{Collective, RankFailed};

/// Sums of so many numbers and more are cut into a piece for each rank. Shorter ones lose by it what
/// they gain: ranks meet twice as often (measured, `benches/ops/comm.rs`).
pub(super) const PIECES_FROM: usize = 1 << 20;
/// Numbers of a piece that are worth a task of a rank's pool, where there are several.
const TASK_NUMBERS: usize = 32 << 10;
const LINE_BYTES: usize = 64;

/// One exchange buffer per rank. `Meeting` orders the accesses: between two meetings either
/// each rank writes its own buffer, or all ranks only read.
#[derive(Debug)]
struct Group {
    buffers: Vec<Exchange>,
    /// Bytes that every buffer has.
    bytes: usize,
    meeting: Meeting,
}

/// One rank's place in a group; dropping it poisons the group for the others.
#[derive(Debug)]
pub struct Member {
    group: Arc<Group>,
    rank: usize,
}

/// Makes a group of as many ranks as there are buffers, one member per rank, in order. A buffer
/// is a rank's own memory (its `Comm` account), committed from the start on; longer messages are
/// sent in parts. A rank may give its pages back between collectives, and has them again before
/// the next. A group of one needs no bytes. No call waits longer than `limit` for another rank.
///
/// # Panics
/// When a buffer of several ranks has no committed bytes.
pub fn group(buffers: Vec<Exchange>, limit: Duration) -> Vec<Member> {
    let ranks = buffers.len();
    let smallest = buffers.iter().map(Exchange::usable).min().unwrap_or(0);
    let bytes = smallest / LINE_BYTES * LINE_BYTES;
    assert!(
        ranks <= 1 || bytes > 0,
        "exchange buffers of {smallest} bytes"
    );
    let aligned = buffers
        .iter()
        .all(|buffer| buffer.start().addr().is_multiple_of(8));
    assert!(
        ranks <= 1 || aligned,
        "exchange buffers are not aligned to 8 bytes"
    );
    let group = Arc::new(Group {
        buffers,
        bytes,
        meeting: Meeting::new(ranks, limit),
    });
    (0..ranks)
        .map(|rank| Member {
            group: Arc::clone(&group),
            rank,
        })
        .collect()
}

impl Member {
    /// Sends `values` (at most one part) through this rank's buffer, waits for all, lets `read`
    /// see every rank's values in rank order, together with this rank's to change, and waits
    /// again before buffers are reused.
    fn exchange<T: Element>(
        &mut self,
        values: &mut [T],
        read: impl FnMut(usize, &[T], &mut [T]),
    ) -> Result<(), RankFailed> {
        let all = 0..values.len();
        self.exchange_parts(values, all.clone(), |_| all.clone(), read)
    }

    /// The same where this rank sends its `sent` alone, and looks at what `wanted` says of each rank.
    pub(super) fn exchange_parts<T: Element>(
        &mut self,
        values: &mut [T],
        sent: Range<usize>,
        wanted: impl Fn(usize) -> Range<usize>,
        mut read: impl FnMut(usize, &[T], &mut [T]),
    ) -> Result<(), RankFailed> {
        let group = &*self.group;
        assert!(
            size_of_val(values) <= group.bytes,
            "a part longer than the exchange buffer"
        );
        let mine = &group.buffers[self.rank];
        let (first, sent) = (sent.start, &values[sent]);
        let own = mine.lend(group.bytes).cast::<T>();
        // SAFETY: the buffer holds `bytes` bytes, which `values` do not pass and of which `sent` is a
        // part, 8-byte aligned; nobody reads it until the meeting below, and it was not lent, so this
        // is the only writer.
        unsafe { std::ptr::copy_nonoverlapping(sent.as_ptr(), own.add(first), sent.len()) };
        group.meeting.meet(self.rank)?;
        for (rank, buffer) in group.buffers.iter().enumerate() {
            let range = wanted(rank);
            let values = &mut values[range.clone()];
            // SAFETY: `values` is a part of what fits into a buffer, so `range` is inside it. Every rank
            // has lent its buffer, of `bytes` initialised bytes whatever it sent, before the
            // meeting, only reads until the next one, and takes its buffer back after that, or
            // never when that one fails.
            let theirs = unsafe {
                let start = buffer.start().cast::<T>().add(range.start);
                std::slice::from_raw_parts(start, range.len())
            };
            read(rank, theirs, values);
        }
        group.meeting.meet(self.rank)?;
        mine.take_back();
        Ok(())
    }

    /// Each rank adds up its piece of `values` (at most one part), and gets the others from theirs.
    pub(super) fn add_pieces(
        &mut self,
        pool: Option<&Pool>,
        values: &mut [f32],
    ) -> Result<(), RankFailed> {
        const LINE: usize = LINE_BYTES / size_of::<f32>();
        let (rank, len) = (self.rank, values.len());
        let each = len.div_ceil(self.ranks()).next_multiple_of(LINE);
        let piece = |rank: usize| (rank * each).min(len)..((rank + 1) * each).min(len);
        self.exchange_parts(
            values,
            0..len,
            |_| piece(rank),
            |from, theirs, sums| {
                on(pool, theirs, sums, |theirs, sums| add(from, theirs, sums));
            },
        )?;
        self.exchange_parts(values, piece(rank), piece, |from, theirs, sums| {
            if from != rank {
                on(pool, theirs, sums, |theirs, sums| {
                    sums.copy_from_slice(theirs)
                });
            }
        })
    }

    fn reduce(&mut self, pool: Option<&Pool>, values: &mut [f32]) -> Result<(), RankFailed> {
        self.group.meeting.check()?;
        if self.ranks() == 1 {
            return Ok(());
        }
        for part in values.chunks_mut(self.part_len::<f32>()) {
            match part.len() >= PIECES_FROM {
                true => self.add_pieces(pool, part)?,
                false => self.exchange(part, add)?,
            }
        }
        Ok(())
    }

    /// Meetings of the group that are over.
    #[cfg(test)]
    pub(super) fn meetings(&self) -> usize {
        self.group.meeting.rounds()
    }

    /// Numbers of `T` that fit into one part.
    fn part_len<T>(&self) -> usize {
        (self.group.bytes / size_of::<T>()).max(1)
    }
}

/// One rank's numbers into the sums: the first rank's are what others are added to.
fn add(rank: usize, theirs: &[f32], sums: &mut [f32]) {
    if rank == 0 {
        sums.copy_from_slice(theirs);
    } else {
        let both = sums.iter_mut().zip(theirs);
        both.for_each(|(sum, value)| *sum += value);
    }
}

/// Does `work` to what two slices have at the same places, in tasks where that is worth them.
fn on(
    pool: Option<&Pool>,
    theirs: &[f32],
    sums: &mut [f32],
    work: impl Fn(&[f32], &mut [f32]) + Sync,
) {
    match pool {
        Some(pool) if pool.threads() > 1 && sums.len() > TASK_NUMBERS => {
            pool.run_rows(sums, 1, TASK_NUMBERS, |first, sums| {
                work(&theirs[first..][..sums.len()], sums);
            });
        }
        Some(_) | None => work(theirs, sums),
    }
}

impl Collective for Member {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.group.buffers.len()
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), RankFailed> {
        self.reduce(None, values)
    }

    fn all_reduce_sum_on(&mut self, pool: &Pool, values: &mut [f32]) -> Result<(), RankFailed> {
        self.reduce(Some(pool), values)
    }

    fn all_gather(&mut self, words: &[u64], all: &mut [u64]) -> Result<(), RankFailed> {
        assert_eq!(
            all.len(),
            words.len() * self.ranks(),
            "all is not [ranks, words]"
        );
        self.group.meeting.check()?;
        if self.ranks() == 1 {
            all.copy_from_slice(words);
            return Ok(());
        }
        // This rank's own place in `all` carries its words out.
        let own = self.rank * words.len();
        all[own..own + words.len()].copy_from_slice(words);
        let part_len = self.part_len::<u64>();
        for first in (0..words.len()).step_by(part_len) {
            let len = part_len.min(words.len() - first);
            let (before, rest) = all.split_at_mut(own + first);
            let (mine, after) = rest.split_at_mut(len);
            let rank = self.rank;
            self.exchange(mine, |from, theirs, _| {
                let at = from * words.len() + first;
                match from.cmp(&rank) {
                    std::cmp::Ordering::Less => before[at..at + len].copy_from_slice(theirs),
                    std::cmp::Ordering::Equal => {}
                    std::cmp::Ordering::Greater => {
                        let at = at - (own + first + len);
                        after[at..at + len].copy_from_slice(theirs);
                    }
                }
            })?;
        }
        Ok(())
    }

    fn broadcast(&mut self, root: usize, words: &mut [u64]) -> Result<(), RankFailed> {
        assert!(root < self.ranks(), "root {root} of {} ranks", self.ranks());
        self.group.meeting.check()?;
        if self.ranks() == 1 {
            return Ok(());
        }
        for part in words.chunks_mut(self.part_len::<u64>()) {
            self.exchange(part, |rank, theirs, words| {
                if rank == root {
                    words.copy_from_slice(theirs);
                }
            })?;
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), RankFailed> {
        self.group.meeting.check()?;
        if self.ranks() == 1 {
            return Ok(());
        }
        // Every operation meets twice per part, this one too: so reads and writes stay apart even
        // if ranks call different operations by mistake.
        self.exchange::<u64>(&mut [], |_, _, _| {})
    }

    fn fail(&self, reason: &str) {
        let reason = reason.to_owned();
        self.group.meeting.fail(RankFailed::Failed {
            rank: self.rank,
            reason,
        });
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.fail("it left the group");
    }
}
