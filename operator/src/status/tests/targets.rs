//! What status says of targets, pod by pod, and when that is worth a write.

use plimsoll_crds::v1alpha1::TargetOutcome;

use super::*;

#[test]
fn who_hears_of_a_generation_makes_no_write_of_its_own_and_what_becomes_of_it_does() {
    let mut facts = with_pods([ready(), ready()]);
    let mut look = |of: [(i64, TargetOutcome); 2]| {
        for (name, (generation, outcome)) in ["a", "b"].into_iter().zip(of) {
            let mut report = report(500);
            let target = report.target.as_mut().unwrap();
            (target.generation, target.outcome) = (generation, outcome);
            facts.reports.insert(name.to_owned(), heard(report));
        }
        told(&facts)
    };
    let second = Some(Duration::from_secs(1));
    let soon = Due::In(Duration::from_secs(2));
    let decide = |written, next| due(written, next, second, PATIENCE);
    use TargetOutcome::{Applied, Refused};
    let nobody = look([(2, Applied), (2, Applied)]);
    let one = look([(3, Applied), (2, Applied)]);
    let all = look([(3, Applied), (3, Applied)]);
    assert_eq!(decide(&nobody, &one), soon);
    assert_eq!(decide(&one, &all), Due::Now, "the condition flips");
    let refused = look([(3, Applied), (3, Refused)]);
    assert_eq!(decide(&one, &refused), Due::Now);
    // Rows follow an answer that the condition told of already.
    let mut late = all.clone();
    late.memory.as_mut().unwrap().targets[1].generation = 2;
    assert_eq!(decide(&late, &all), soon);
    assert_eq!(decide(&all, &all), Due::Nothing);
}

#[test]
fn an_engines_own_words_are_cut_to_what_a_status_holds() {
    let mut facts = with_pods([ready(), ready()]);
    let mut talks = report(500);
    talks.target.as_mut().unwrap().message = "é".repeat(100_000);
    facts.reports.insert("a".to_owned(), heard(talks));
    let words = |status: &InferenceDeploymentStatus| {
        let rows = &status.memory.as_ref().unwrap().targets;
        rows[0].message.chars().count()
    };
    let status = told(&facts);
    let most = words(&status);
    assert!(most > 100 && most < 5_000, "{most}");
    // As an operator wrote it that did not cut.
    facts.status = status;
    facts.status.memory.as_mut().unwrap().targets[0].message = "é".repeat(100_000);
    facts.reports.clear();
    assert_eq!(words(&told(&facts)), most);
}

/// The pods of `with_pods` under other quotas: `limit` is what their node has in force.
fn resized(limit: u64, outcome: TargetOutcome) -> Facts {
    let mut facts = with_pods([ready(), ready()]);
    for pod in &mut facts.pods {
        (pod.limit.asked, pod.limit.in_force) = (Some(limit), Some(limit));
    }
    for name in ["a", "b"] {
        let mut report = report(500);
        report.target.as_mut().unwrap().outcome = outcome;
        facts.reports.insert(name.to_owned(), heard(report));
    }
    facts
}

#[test]
fn rows_have_budgets_and_limits_before_and_after_and_the_column_says_resizing() {
    use TargetOutcome::{Applied, Deferred};
    let wanted = {
        let status = told(&resized(1 << 40, Deferred));
        let row = status.memory.as_ref().unwrap().targets[0].clone();
        assert_eq!(row.budget_bytes, Some(1000));
        assert_eq!(row.wanted_budget_bytes, Some(1000 << 20), "300 and 700 MiB");
        assert_eq!(row.limit_bytes, Some(1 << 40));
        row.wanted_limit_bytes.unwrap()
    };
    assert!(wanted > 1000 << 20, "{wanted}");
    // In force, and the limit follows; in place; not told yet; on its way.
    for (limit, outcome, state, reason) in [
        (1 << 40, Applied, State::Resizing, "TargetDeferred"),
        (wanted, Applied, State::Serving, "Applied"),
        (wanted, Deferred, State::Resizing, "TargetDeferred"),
    ] {
        let status = told(&resized(limit, outcome));
        assert_eq!(status.state, Some(state), "{limit} {outcome:?}");
        let applied = find(&status, "TargetApplied").unwrap();
        assert_eq!(applied.reason, reason, "{}", applied.message);
        assert_eq!(
            short(&status),
            ("True".to_owned(), "Serving".to_owned(), "")
        );
    }
}

#[test]
fn a_limit_is_lowered_only_on_the_word_of_the_engine_that_runs() {
    let mut facts = resized(1 << 40, TargetOutcome::Applied);
    let lowered = |facts: &Facts| {
        let desire = desire(facts, &settings(), "token", PATIENCE).unwrap();
        desire.limits.len()
    };
    assert_eq!(lowered(&facts), 2);
    // The report is of the container before.
    facts.pods[0].engine.running_since = Some(at(5));
    assert_eq!(lowered(&facts), 1);
    // Silent.
    facts.reports.get_mut("b").unwrap().stale = true;
    assert_eq!(lowered(&facts), 0);
    // What the status has is what the operator before heard.
    let mut begun = resized(1 << 40, TargetOutcome::Applied);
    begun.status = told(&begun);
    begun.reports.clear();
    assert_eq!(lowered(&begun), 0);
    // A pod that no node has holds nothing.
    begun.pods[0].node = None;
    begun.status.memory = None;
    assert_eq!(lowered(&begun), 1);
}
