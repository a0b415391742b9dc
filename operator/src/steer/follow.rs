//! One engine's target beside its container's memory limit: what is told before the limit is there,
//! what a refusal was worth, and what follows once the target is in force. Pure.

use plimsoll_crds::v1alpha1::TargetReport;

use super::limit::Step;
use super::{Engine, Hears, Limit, One, Verdict, sooner};

impl Engine {
    /// What comes before it is told of the newest target.
    fn before(&self) -> Step {
        self.limit.as_ref().map_or(Step::Free, Limit::before)
    }

    pub(super) fn not_told(&self, generation: i64) -> Verdict {
        let step = self.before();
        if step == Step::Free {
            return Verdict::of(self.to_tell(generation, true));
        }
        let stuck = self.limit.as_ref().is_some_and(|it| it.stuck(&step));
        let waits = self.by_limit(step, false);
        if !stuck {
            return waits;
        }
        match self.to_tell(generation, false) {
            tell @ One::Tell { .. } => Verdict { one: tell, ..waits },
            // What keeps the limit from coming is the better news.
            One::Waits(_, pause) => Verdict {
                again: sooner(waits.again, pause),
                ..waits
            },
            One::Gone | One::Applied(_) | One::Deferred(_) | One::Refused(_) => waits,
        }
    }

    /// It said no: for good, if it had the limit for the target when it was told.
    pub(super) fn refused(&self, told: &TargetReport) -> Verdict {
        let refused = || Verdict::of(One::Refused(told.message.clone()));
        if self.limit.is_none() || self.tries.held == Some(told.generation) {
            return refused();
        }
        match self.before() {
            Step::Free => match self.to_tell(told.generation, true) {
                One::Waits(_, None) => refused(),
                one => Verdict::of(one),
            },
            step => self.by_limit(step, false),
        }
    }

    /// The target is in force: what is left is its container's limit.
    pub(super) fn applied(&self) -> Verdict {
        let Some(limit) = &self.limit else {
            return Verdict::of(One::Applied(None));
        };
        match limit.before() {
            Step::Free => {}
            // It began again with the newest target, and waits for its limit.
            step => return self.by_limit(step, false),
        }
        match limit.after() {
            Step::Free => Verdict::of(One::Applied(None)),
            _ if !self.confirmed || self.hears != Hears::Yes => {
                let words =
                    "has it in force; its container's memory limit follows once it is heard";
                Verdict::of(One::Waits(words.to_owned(), None))
            }
            step => self.by_limit(step, true),
        }
    }

    /// A limit that is on its way; `follows`: the engine has its target.
    fn by_limit(&self, step: Step, follows: bool) -> Verdict {
        let on_its_way = |words: String, pause| match follows {
            true => One::Deferred(format!("has it in force; {words}")),
            false => One::Waits(format!("does not have it yet; {words}"), pause),
        };
        match step {
            Step::Free => Verdict::of(One::Applied(None)),
            Step::Ask(bytes) => Verdict {
                ask: Some(bytes),
                moves: true,
                ..Verdict::of(on_its_way(self.asked(), None))
            },
            Step::Waits(words, pause) => Verdict {
                moves: true,
                again: pause,
                ..Verdict::of(on_its_way(words, pause))
            },
            Step::No(words, pause) if follows => Verdict {
                again: pause,
                ..Verdict::of(One::Applied(Some(words)))
            },
            Step::No(words, pause) => Verdict {
                again: pause,
                ..Verdict::of(One::Refused(words))
            },
        }
    }

    fn asked(&self) -> String {
        let limit = self.limit.as_ref();
        let words = limit.and_then(|limit| Some(limit.change(limit.is.asked?)));
        words.unwrap_or_default()
    }
}
