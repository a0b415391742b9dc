//! What engines hold to, and that it changed without a restart. Pure.

use std::collections::BTreeMap;

use plimsoll_crds::v1alpha1::TargetOutcome;
use plimsoll_crds::v1alpha1::report::EngineState;
use plimsoll_planner::Bytes;

use crate::facts::Facts;
use crate::memory::Holding;
use crate::pods::PodFacts;

/// What the engines hold to, by pod: those whose newest target is in force, and others as `before`.
pub(crate) fn holdings(
    facts: &Facts,
    before: Option<&BTreeMap<String, Holding>>,
) -> BTreeMap<String, Holding> {
    let now = |pod: &PodFacts| {
        let report = facts.report(pod)?;
        let told = report.target.as_ref()?;
        let settled =
            told.outcome == TargetOutcome::Applied && report.state != EngineState::Loading;
        settled.then(|| Holding {
            restarts: pod.engine.restarts,
            budgets: report.ranks.iter().map(|rank| rank.budget_bytes).sum(),
            tokens: report.effective.as_ref().map_or(0, |it| it.kv_cache_tokens),
        })
    };
    let known = |pod: &PodFacts| before.and_then(|before| before.get(&pod.name).copied());
    let live = facts.live_pods();
    let held = live.filter_map(|pod| Some((pod.name.clone(), now(pod).or_else(|| known(pod))?)));
    held.collect()
}

/// Of each engine whose budgets changed while it ran: a note with the figures before and after.
pub(crate) fn notes(
    before: &BTreeMap<String, Holding>,
    now: &BTreeMap<String, Holding>,
) -> Vec<String> {
    let changed = now.iter().filter_map(|(pod, now)| {
        let before = before.get(pod)?;
        let resized = before.restarts == now.restarts && before.budgets != now.budgets;
        resized.then_some((pod, before, now))
    });
    let note = |(pod, before, now): (&String, &Holding, &Holding)| {
        format!(
            "pod {pod}: budgets {} -> {} ({} -> {} bytes), KV cache {} -> {} tokens, without a restart",
            Bytes::measured(before.budgets),
            Bytes::measured(now.budgets),
            before.budgets,
            now.budgets,
            before.tokens,
            now.tokens
        )
    };
    changed.map(note).collect()
}
