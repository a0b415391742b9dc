//! Sleep, wake and release: vLLM's metrics by their names, and bytes and results of our own.

use plimsoll_crds::v1alpha1::report::EngineState;
use prometheus::{Counter, CounterVec, IntCounterVec, IntGauge, IntGaugeVec};

use super::Maker;
use super::histogram::{Counted, Kept};
use crate::engine::rest::{
    Cause, RestView, SleepLevel, TRANSITION_EDGES, Transition, TransitionCounts,
};
use crate::engine::stats::EngineStats;

#[derive(Debug)]
pub(super) struct Sleep {
    state: IntGaugeVec,
    durations: Kept,
    in_flight: IntGauge,
    total: IntCounterVec,
    by_reason: IntCounterVec,
    bytes: IntCounterVec,
    seconds: CounterVec,
}

impl Sleep {
    pub(super) fn new(maker: &mut Maker) -> Sleep {
        let state = maker.vllm("engine_sleep_state", "1 on the current state of sleep.");
        let durations = maker.vllm(
            "sleep_mode_operation_duration_seconds",
            "Time of sleeps, releases of the KV cache, and wakes.",
        );
        let in_flight = maker.vllm(
            "sleep_mode_operations_in_flight",
            "Sleeps, releases and wakes under way.",
        );
        let total = maker.plimsoll("transition_total", "Transitions, by kind and result.");
        let by_reason = maker.plimsoll(
            "transition_reason_total",
            "Sleeps and wakes, by kind and by who asked: control, target, idle or request.",
        );
        let bytes = maker.plimsoll(
            "transition_bytes_total",
            "Bytes of all GPUs given back or taken by transitions.",
        );
        let seconds = maker.plimsoll("transition_seconds_total", "Time spent in transitions.");
        let sleep = Sleep {
            state: maker.add(IntGaugeVec::new(state, &["sleep_state"])),
            durations: maker.add(Kept::new(durations, Some("operation"))),
            in_flight: maker.add(IntGauge::with_opts(in_flight)),
            total: maker.add(IntCounterVec::new(total, &["kind", "result"])),
            by_reason: maker.add(IntCounterVec::new(by_reason, &["kind", "reason"])),
            bytes: maker.add(IntCounterVec::new(bytes, &["kind", "direction"])),
            seconds: maker.add(CounterVec::new(seconds, &["kind"])),
        };
        let (stats, rest) = (EngineStats::default(), RestView::default());
        sleep.set(&stats, &rest, EngineState::Loading);
        sleep
    }

    pub(super) fn set(&self, stats: &EngineStats, rest: &RestView, state: EngineState) {
        let moves = matches!(state, EngineState::Sleeping | EngineState::Waking);
        self.in_flight.set(i64::from(moves));
        for (state, is_it) in [
            ("awake", !rest.is_sleeping()),
            ("weights_offloaded", rest.level == Some(SleepLevel::One)),
            ("discard_all", rest.level == Some(SleepLevel::Two)),
        ] {
            self.state.with_label_values(&[state]).set(i64::from(is_it));
        }
        let all = Transition::ALL.into_iter().zip(&stats.transitions);
        for (kind, counts) in all.clone() {
            self.set_kind(kind.name(), counts);
            // Everything else is asked for by hand.
            if matches!(kind, Transition::Sleep | Transition::Wake) {
                self.set_reasons(kind.name(), counts);
            }
        }
        // vLLM counts updates apart from sleep, and knows no resize.
        let of_sleep = all.filter(|(kind, _)| match kind {
            Transition::Sleep | Transition::ReleaseKvCache | Transition::Wake => true,
            Transition::Update | Transition::Resize => false,
        });
        let counted = of_sleep.map(|(kind, counts)| (kind.name(), counted(counts)));
        self.durations.set(counted);
    }

    fn set_reasons(&self, kind: &str, counts: &TransitionCounts) {
        for (cause, count) in Cause::ALL.into_iter().zip(counts.causes) {
            let counter = self.by_reason.with_label_values(&[kind, cause.name()]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }

    fn set_kind(&self, kind: &str, counts: &TransitionCounts) {
        for (result, count) in [("done", counts.done), ("failed", counts.failed)] {
            let counter = self.total.with_label_values(&[kind, result]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        for (direction, bytes) in [
            ("given_back", counts.given_back_bytes),
            ("taken", counts.taken_bytes),
        ] {
            let counter = self.bytes.with_label_values(&[kind, direction]);
            counter.inc_by(bytes.saturating_sub(counter.get()));
        }
        let counter: Counter = self.seconds.with_label_values(&[kind]);
        counter.inc_by((counts.time.as_secs_f64() - counter.get()).max(0.0));
    }
}

fn counted(counts: &TransitionCounts) -> Counted {
    Counted {
        buckets: TRANSITION_EDGES.into_iter().zip(counts.times).collect(),
        count: counts.done + counts.failed,
        sum: counts.time.as_secs_f64(),
    }
}
