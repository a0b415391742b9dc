//! The adapters that the newest target names: which are still to be loaded or unloaded, and what became
//! of each. Pure; whoever carries a step out says what came of it.
//!
//! Only what a target named is unloaded for a target's sake: what was loaded by hand stays.

use std::time::{Duration, Instant};

use plimsoll_crds::v1alpha1::boot::BootAdapter;

/// One that could not be loaded or unloaded is tried again after so long, doubled up to the most.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MOST: Duration = Duration::from_secs(600);
const DOUBLINGS_MOST: u32 = 10;

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Also in the place of what this engine has by its name.
    Load(BootAdapter),
    Unload(String),
}

impl Step {
    fn name(&self) -> &str {
        match self {
            Step::Load(adapter) => &adapter.name,
            Step::Unload(name) => name,
        }
    }
}

/// How an adapter stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was not tried yet.
    Loading,
    Loaded,
    /// Why it is not as asked; it is tried again.
    Refused(String),
}

#[derive(Clone, Debug)]
struct Row {
    /// As asked; None: it is to go.
    wanted: Option<BootAdapter>,
    standing: Standing,
    failures: u32,
    /// When it is due; None: it is as asked.
    due: Option<Instant>,
}

/// How far adapters are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// All of the first target was tried.
    pub begun: bool,
    /// So often something was told, or came of one.
    pub count: u64,
}

/// See the head of the file.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    rows: Vec<(String, Row)>,
    moves: Moves,
}

impl Wanted {
    /// Takes the list of a target. What is as asked already stays; what failed is tried anew.
    pub fn tell(&mut self, adapters: &[BootAdapter], now: Instant) {
        for (name, row) in &mut self.rows {
            let wanted = adapters.iter().find(|of| of.name == *name).cloned();
            if row.wanted == wanted && row.due.is_none() {
                continue;
            }
            *row = Row {
                standing: match row.wanted == wanted {
                    true => row.standing.clone(),
                    false => Standing::Loading,
                },
                wanted,
                failures: 0,
                due: Some(now),
            };
        }
        for adapter in adapters {
            if self.rows.iter().any(|(name, _)| *name == adapter.name) {
                continue;
            }
            let row = Row {
                wanted: Some(adapter.clone()),
                standing: Standing::Loading,
                failures: 0,
                due: Some(now),
            };
            self.rows.push((adapter.name.clone(), row));
        }
        self.moved();
    }

    /// The next step, and when. Slots are given back before others are taken.
    pub fn next(&self) -> Option<(Step, Instant)> {
        let due = self.rows.iter().filter_map(|(name, row)| {
            let step = match &row.wanted {
                None => Step::Unload(name.clone()),
                Some(adapter) => Step::Load(adapter.clone()),
            };
            Some((step, row.due?))
        });
        due.min_by_key(|(step, at)| (*at, matches!(step, Step::Load(_))))
    }

    /// What came of a step; of one that is not wanted any more, nobody wants to know, but that what it
    /// loaded is there.
    pub fn settle(&mut self, step: &Step, outcome: Result<(), String>, now: Instant) {
        let Some(at) = self.rows.iter().position(|(name, _)| name == step.name()) else {
            return;
        };
        let row = &mut self.rows[at].1;
        let is_wanted = match (step, &row.wanted) {
            (Step::Load(adapter), Some(wanted)) => adapter == wanted,
            (Step::Unload(_), None) => true,
            (Step::Load(_), None) | (Step::Unload(_), Some(_)) => false,
        };
        if !is_wanted {
            return;
        }
        match (outcome, step) {
            (Ok(()), Step::Unload(_)) => {
                self.rows.remove(at);
            }
            (Ok(()), Step::Load(_)) => {
                row.standing = Standing::Loaded;
                row.failures = 0;
                row.due = None;
            }
            (Err(why), _) => {
                let pause = AGAIN * 2_u32.pow(row.failures.min(DOUBLINGS_MOST));
                row.standing = Standing::Refused(why);
                row.failures += 1;
                row.due = Some(now + pause.min(AGAIN_MOST));
            }
        }
        self.moved();
    }

    /// It is under way for long, and whether it will end nobody knows: that is told until it does.
    pub fn hangs(&mut self, step: &Step, why: String, until: Instant) {
        self.postpone(step, until);
        let mut rows = self.rows.iter_mut();
        if let Some((_, row)) = rows.find(|(name, _)| name == step.name())
            && matches!(step, Step::Load(adapter) if row.wanted.as_ref() == Some(adapter))
        {
            row.standing = Standing::Refused(why);
        }
        self.moved();
    }

    /// It cannot be done now, for what is no fault of the adapter.
    pub fn postpone(&mut self, step: &Step, until: Instant) {
        let mut rows = self.rows.iter_mut();
        if let Some((_, row)) = rows.find(|(name, _)| name == step.name())
            && row.due.is_some()
        {
            row.due = Some(until);
        }
    }

    /// Somebody waits for it: what was put off, and is not known to fail, is due now.
    pub fn hurry(&mut self, name: &str, now: Instant) {
        let mut rows = self.rows.iter_mut();
        if let Some((_, row)) = rows.find(|(of, _)| of == name)
            && row.standing == Standing::Loading
        {
            row.due = row.due.map(|at| at.min(now));
        }
    }

    /// How one stands that is wanted.
    pub fn standing(&self, name: &str) -> Option<&Standing> {
        let mut standings = self.standings();
        standings.find_map(|(adapter, standing)| (adapter.name == name).then_some(standing))
    }

    /// Each that is wanted, in the order of the targets that named it first.
    pub fn standings(&self) -> impl Iterator<Item = (&BootAdapter, &Standing)> {
        let rows = self.rows.iter();
        rows.filter_map(|(_, row)| Some((row.wanted.as_ref()?, &row.standing)))
    }

    /// Whether all that was wanted from the start was tried: who has not come so far answers for no
    /// adapter yet. What comes later takes nothing from what is answered.
    pub fn has_begun(&self) -> bool {
        self.moves.begun
    }

    pub fn moves(&self) -> Moves {
        self.moves
    }

    fn moved(&mut self) {
        self.moves.count += 1;
        self.moves.begun |= self.is_settled();
    }

    /// Whether all that is wanted was tried.
    fn is_settled(&self) -> bool {
        self.standings()
            .all(|(_, standing)| *standing != Standing::Loading)
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_crds::v1alpha1::adapters::AdapterScale;

    use super::*;

    fn adapter(name: &str, path: &str) -> BootAdapter {
        BootAdapter {
            name: name.to_owned(),
            path: path.to_owned(),
            scale: AdapterScale::ONE,
        }
    }

    /// An engine with so many slots, which refuses paths that begin with `bad`.
    #[derive(Default)]
    struct Slots(Vec<BootAdapter>);

    impl Slots {
        fn carry_out(&mut self, step: &Step) -> Result<(), String> {
            match step {
                Step::Unload(name) => self.0.retain(|of| of.name != *name),
                Step::Load(of) if of.path.starts_with("bad") => return Err("bad".to_owned()),
                Step::Load(of) => {
                    self.0.retain(|other| other.name != of.name);
                    if self.0.len() == 2 {
                        return Err("no slot".to_owned());
                    }
                    self.0.push(of.clone());
                }
            }
            Ok(())
        }

        /// All that is due by now.
        fn follow(&mut self, wanted: &mut Wanted, now: Instant) -> Vec<Step> {
            let mut done = Vec::new();
            while let Some((step, at)) = wanted.next() {
                if at > now {
                    break;
                }
                let outcome = self.carry_out(&step);
                wanted.settle(&step, outcome, now);
                done.push(step);
            }
            done
        }

        fn names(&self) -> Vec<&str> {
            self.0.iter().map(|of| of.name.as_str()).collect()
        }
    }

    #[test]
    fn an_engine_gets_what_the_newest_target_names_and_keeps_what_is_as_asked() {
        let (mut wanted, mut slots, now) = (Wanted::default(), Slots::default(), Instant::now());
        slots.0.push(adapter("by-hand", "x"));
        wanted.tell(&[adapter("a", "1")], now);
        assert!(!wanted.is_settled() && !wanted.has_begun());
        slots.follow(&mut wanted, now);
        assert!(wanted.is_settled() && wanted.has_begun());
        // The slot of what goes is free before it is taken.
        wanted.tell(&[adapter("b", "1")], now);
        let done = slots.follow(&mut wanted, now);
        assert_eq!(
            done,
            [Step::Unload("a".to_owned()), Step::Load(adapter("b", "1"))]
        );
        assert_eq!(slots.names(), ["by-hand", "b"]);
        wanted.tell(&[adapter("b", "1")], now);
        assert_eq!(slots.follow(&mut wanted, now), []);
        wanted.tell(&[adapter("b", "2")], now);
        assert_eq!(slots.follow(&mut wanted, now).len(), 1);
        assert_eq!(slots.0[1].path, "2");
        wanted.tell(&[], now);
        slots.follow(&mut wanted, now);
        assert_eq!(slots.names(), ["by-hand"], "nobody told of it");
    }

    #[test]
    fn one_that_cannot_be_loaded_is_tried_ever_more_seldom_and_keeps_no_other() {
        let (mut wanted, mut slots, mut now) =
            (Wanted::default(), Slots::default(), Instant::now());
        wanted.tell(&[adapter("wrong", "bad"), adapter("a", "1")], now);
        slots.follow(&mut wanted, now);
        assert_eq!(slots.names(), ["a"]);
        assert!(wanted.is_settled());
        let standings: Vec<Standing> = wanted.standings().map(|(_, of)| of.clone()).collect();
        assert_eq!(
            standings,
            [Standing::Refused("bad".to_owned()), Standing::Loaded]
        );
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let (_, at) = wanted.next().unwrap();
            pauses.push((at - now).as_secs());
            now = at;
            assert_eq!(slots.follow(&mut wanted, now).len(), 1);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        // A newer target has it tried at once; meanwhile what is known of it stays known.
        wanted.tell(&[adapter("wrong", "bad"), adapter("a", "1")], now);
        assert!(wanted.is_settled());
        assert_eq!(wanted.next().map(|(_, at)| at), Some(now));
        wanted.tell(&[adapter("wrong", "good"), adapter("a", "1")], now);
        assert!(!wanted.is_settled() && wanted.has_begun());
        slots.follow(&mut wanted, now);
        assert_eq!(slots.names(), ["a", "wrong"]);
        assert_eq!(wanted.next(), None);
    }

    #[test]
    fn what_came_of_a_step_that_nobody_wants_any_more_is_no_matter() {
        let (mut wanted, now) = (Wanted::default(), Instant::now());
        wanted.tell(&[adapter("a", "1")], now);
        let (step, _) = wanted.next().unwrap();
        wanted.tell(&[adapter("a", "2")], now);
        wanted.settle(&step, Ok(()), now);
        assert!(!wanted.is_settled());
        let (step, _) = wanted.next().unwrap();
        assert_eq!(step, Step::Load(adapter("a", "2")));
        wanted.tell(&[], now);
        wanted.settle(&step, Err("late".to_owned()), now);
        assert_eq!(wanted.next(), Some((Step::Unload("a".to_owned()), now)));
    }

    #[test]
    fn one_that_hangs_is_told_of_and_asked_again_as_often_as_ever() {
        let (mut wanted, mut now) = (Wanted::default(), Instant::now());
        wanted.tell(&[adapter("a", "1")], now);
        let (step, _) = wanted.next().unwrap();
        for _ in 0..20 {
            wanted.hangs(&step, "hangs".to_owned(), now + AGAIN);
            assert!(wanted.has_begun());
            assert_eq!(wanted.next(), Some((step.clone(), now + AGAIN)));
            now += AGAIN;
        }
        let standings: Vec<&Standing> = wanted.standings().map(|(_, of)| of).collect();
        assert_eq!(standings, [&Standing::Refused("hangs".to_owned())]);
        // Nothing is said of another that took its name.
        wanted.tell(&[adapter("a", "2")], now);
        wanted.hangs(&step, "hangs".to_owned(), now + AGAIN);
        assert!(wanted.standings().all(|(_, of)| *of == Standing::Loading));
        wanted.settle(&step, Ok(()), now);
        assert!(wanted.next().is_some());
    }

    #[test]
    fn what_cannot_be_now_is_tried_later_and_nothing_is_said_against_it() {
        let (mut wanted, now) = (Wanted::default(), Instant::now());
        wanted.tell(&[], now);
        assert!(wanted.has_begun(), "there is nothing to wait for");
        wanted.tell(&[adapter("a", "1")], now);
        let (step, _) = wanted.next().unwrap();
        wanted.postpone(&step, now + AGAIN);
        assert_eq!(wanted.next(), Some((step.clone(), now + AGAIN)));
        let standings: Vec<&Standing> = wanted.standings().map(|(_, of)| of).collect();
        assert_eq!(standings, [&Standing::Loading]);
        wanted.settle(&step, Ok(()), now);
        wanted.postpone(&step, now);
        assert_eq!(wanted.next(), None, "it is there");
    }
}
