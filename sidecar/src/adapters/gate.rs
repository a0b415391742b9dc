//! What merged weights are held to while they are read, before anything is served with them.
//!
//! Every row that an adapter changes answers as base and adapter do side by side (`side`), every
//! number is kept as its type rounds it, all of its tensors were read, and of what the adapter adds
//! enough is left in that type (`figures`).

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::figures::{Figures, PART, as_kept};
use super::side::{Answers, Seen, WrongRow};
use super::turns::Turns;
use crate::model_error::ModelError;
use crate::weights::encoding::Encoding;

/// More of an adapter than this is not given up to rounding, see [`Figures::lost`].
pub const LOST_MAX: f64 = 0.9;
/// Answers of factors that are kept: of the pieces that threads read just now.
const ANSWERS_MAX: usize = 32;

/// What is done about adapters whose merge cannot be proved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Validation {
    /// They are not served.
    #[default]
    Enforce,
    /// They are served, and a warning says what was found.
    Report,
    /// Nothing is measured.
    Off,
}

/// An adapter as it was found in the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    pub name: String,
    /// The largest of its matrices' ranks; 0 where it has none.
    pub rank: usize,
    /// Of the base's, that it changes.
    pub tensors: usize,
    pub figures: Figures,
}

/// What a gate found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// In the order of the merge.
    pub adapters: Vec<Validated>,
    /// What the answers to a probe changed by, as a share of the length of their logits; None where it
    /// was not measured.
    pub answers_change: Option<f64>,
    pub compared: Compared,
    /// Why they should not be served.
    pub wrong: Option<String>,
}

/// Whether merged weights answer as base and adapters do side by side.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Compared {
    /// There was no probe, or the base alone was not there to answer it.
    #[default]
    NotAsked,
    /// Why they cannot be computed side by side.
    Cannot(String),
    Apart(Apart),
}

/// How far two answers to a probe are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Apart {
    /// Of the length of the logits.
    pub share: f64,
    /// How much of what unmerged adapters change is changed, along that change: 1 where all is.
    pub along: f64,
    /// The largest difference of two logits.
    pub most: f64,
    /// The share that rounding explains.
    pub bound: f64,
    /// How far it explains that `along` is from 1.
    pub along_bound: f64,
}

/// Of the weights that are read through it. It looks from when it is told to until its verdict is asked
/// for: what is read after that was proved before, and checksums say that it is the same.
#[derive(Debug, Default)]
pub struct Gate {
    is_open: AtomicBool,
    /// Reads give the base's numbers.
    holds_back: AtomicBool,
    /// See [`Gate::no_numbers`].
    makes_no_numbers: AtomicBool,
    tallies: Mutex<Vec<Tally>>,
    answers: Mutex<Vec<(Place, Arc<Answers>)>>,
    pub(super) turns: Turns,
    #[cfg(test)]
    pub(crate) spoils: Mutex<Option<super::spoils::Spoils>>,
}

/// An adapter's number, its tensor, and columns of that.
type Place = (usize, String, Range<usize>);

#[derive(Debug)]
struct Tally {
    name: String,
    rank: usize,
    tensors: Vec<String>,
    read: BTreeSet<String>,
    figures: Figures,
    /// The first that is wrong, by tensor and row, and what is said of it.
    wrong: Option<(String, usize, String)>,
}

impl Gate {
    /// One more that is merged.
    pub(super) fn expect(&self, name: &str, rank: usize, tensors: &[String]) {
        lock(&self.tallies).push(Tally {
            name: name.to_owned(),
            rank,
            tensors: tensors.to_vec(),
            read: BTreeSet::new(),
            figures: Figures::default(),
            wrong: None,
        });
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// What is read from now on is looked at. `bare`: first come the base's own numbers, until
    /// [`Gate::let_in`].
    pub fn begin(&self, bare: bool) {
        for tally in &mut *lock(&self.tallies) {
            tally.read.clear();
            tally.figures = Figures::default();
            tally.wrong = None;
        }
        self.holds_back.store(bare, Ordering::Release);
        self.is_open.store(true, Ordering::Release);
    }

    /// Reads give the base's numbers.
    pub fn holds_back(&self) -> bool {
        self.holds_back.load(Ordering::Acquire)
    }

    /// Reads give what adapters make of the base.
    pub fn let_in(&self) {
        self.holds_back.store(false, Ordering::Release);
    }

    /// What an adapter makes of the base are no numbers, as its type has them or answers are computed.
    pub(crate) fn no_numbers(&self) {
        self.makes_no_numbers.store(true, Ordering::Release);
    }

    /// Whether that was found, by whoever read, looked at or not.
    pub(crate) fn makes_no_numbers(&self) -> bool {
        self.makes_no_numbers.load(Ordering::Acquire)
    }

    /// Looks at rows that are kept in this encoding, as an adapter found and left them.
    ///
    /// # Errors
    /// Where a file fails.
    pub(super) fn look(
        &self,
        adapter: usize,
        tensor: &str,
        kept: Encoding,
        seen: &Seen<'_>,
    ) -> Result<(), ModelError> {
        let answers = self.answers(adapter, tensor, seen)?;
        let wrong = seen.first_wrong(&answers)?;
        let mut figures = Figures::default();
        figures.count((kept, seen.in_blocks), seen.before, seen.after);
        let mut tallies = lock(&self.tallies);
        let tally = &mut tallies[adapter];
        tally.figures.add(&figures);
        if !tally.read.contains(tensor) {
            tally.read.insert(tensor.to_owned());
        }
        if let Some(WrongRow { row, is, meant }) = wrong {
            let times = match meant == 0.0 {
                true => String::new(),
                false => format!(", {:.4} times it", is / meant),
            };
            let message = format!(
                "row {row} of `{tensor}` answers a probe with {is:.4e}, where base and adapter side by side \
                 have {meant:.4e}{times}"
            );
            tally.found(tensor, row, message);
        }
        Ok(())
    }

    /// Compares numbers with the bytes that they are kept as.
    pub(super) fn compare(
        &self,
        adapter: usize,
        tensor: &str,
        (first_row, width): (usize, usize),
        kept: Encoding,
        (numbers, bytes): (&[f32], &[u8]),
    ) {
        let parts = bytes.chunks_exact(kept.block_bytes() * (PART / kept.block_numbers()));
        // What is left of the last part goes through a part of its own.
        let rest = parts.remainder();
        let parts = parts.chain((!rest.is_empty()).then_some(rest));
        for (part, (bytes, numbers)) in parts.zip(numbers.chunks(PART)).enumerate() {
            let (mut is, mut meant) = ([0.0; PART], [0.0; PART]);
            let (is, meant) = (&mut is[..numbers.len()], &mut meant[..numbers.len()]);
            kept.decode(bytes, 0, is);
            as_kept(kept, numbers, meant);
            let Some(at) = is.iter().zip(&*meant).position(|(is, meant)| is != meant) else {
                continue;
            };
            let (is, meant, at) = (is[at], meant[at], part * PART + at);
            let (row, column) = (first_row + at / width.max(1), at % width.max(1));
            let message = format!(
                "row {row} of `{tensor}` is kept with {is:e} as its number {column}, and {meant:e} is meant"
            );
            lock(&self.tallies)[adapter].found(tensor, row, message);
            return;
        }
    }

    fn answers(
        &self,
        adapter: usize,
        tensor: &str,
        seen: &Seen<'_>,
    ) -> Result<Arc<Answers>, ModelError> {
        let is_it =
            |(of, name, cols): &Place| *of == adapter && name == tensor && *cols == seen.cols;
        let known = lock(&self.answers);
        if let Some((_, answers)) = known.iter().find(|(place, _)| is_it(place)) {
            return Ok(Arc::clone(answers));
        }
        drop(known);
        let answers = Arc::new(Answers::of(seen.change, &seen.cols)?);
        let mut known = lock(&self.answers);
        if known.len() >= ANSWERS_MAX {
            known.remove(0);
        }
        let place = (adapter, tensor.to_owned(), seen.cols.clone());
        known.push((place, Arc::clone(&answers)));
        Ok(answers)
    }

    /// Says what was found, and looks at nothing more. `remedies`: what helps where a narrow type loses an
    /// adapter.
    pub fn verdict(&self, remedies: &str) -> Verdict {
        self.is_open.store(false, Ordering::Release);
        lock(&self.answers).clear();
        let tallies = lock(&self.tallies);
        let validated = |tally: &Tally| Validated {
            name: tally.name.clone(),
            rank: tally.rank,
            tensors: tally.tensors.len(),
            figures: tally.figures,
        };
        let wrong = tallies.iter().find_map(|tally| {
            let why = tally.why(remedies)?;
            Some(format!("adapter `{}`: {why}", tally.name))
        });
        Verdict {
            adapters: tallies.iter().map(validated).collect(),
            answers_change: None,
            compared: Compared::NotAsked,
            wrong,
        }
    }
}

impl Tally {
    fn found(&mut self, tensor: &str, row: usize, message: String) {
        let before = self.wrong.as_ref();
        if before.is_none_or(|(of, at, _)| (tensor, row) < (of.as_str(), *at)) {
            self.wrong = Some((tensor.to_owned(), row, message));
        }
    }

    /// Why it should not be served.
    fn why(&self, remedies: &str) -> Option<String> {
        if let Some((.., message)) = &self.wrong {
            return Some(format!(
                "{message}: the weights are not what the adapter means"
            ));
        }
        let mut tensors = self.tensors.iter();
        if let Some(missing) = tensors.find(|name| !self.read.contains(*name)) {
            return Some(format!("changes `{missing}`, which nobody has read"));
        }
        let lost = self.figures.lost();
        let again = match self.figures.requantised {
            0 => String::new(),
            numbers => format!(", and {numbers} are in blocks of the file that are rounded again"),
        };
        (lost > LOST_MAX).then(|| {
            format!(
                "rounding takes {:.1}% of what it adds ({:.0}% at most may be lost): of {} numbers \
                 {:.3}% are kept otherwise than without it{again}; {remedies}",
                100.0 * lost,
                100.0 * LOST_MAX,
                self.figures.numbers,
                100.0 * self.figures.changed_share(),
            )
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
