//! Who asks for a size, who is heard, and what each is told.

use std::path::Path;

use clap::Parser;
use plimsoll_crds::v1alpha1::convert;

use super::*;
use crate::args::{Cli, Command};
use crate::config::plan_flags;
use crate::model::ModelFolder;

/// The tiny model on two ranks of 8 and 9 MiB.
pub(crate) fn planned() -> Planned {
    let folder = "tests/fixtures/models/tiny-llama";
    let model = ModelFolder::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
    let line = "x plan m --tensor-parallel-size 2 --quota 0=8Mi --quota 1=9Mi --dtype float32 \
        --max-num-seqs 4 --max-num-batched-tokens 64";
    let Command::Plan(args) = Cli::parse_from(line.split_whitespace()).command else {
        panic!("not a plan")
    };
    plan_flags(&args.memory, &model).unwrap()
}

/// What an operator tells an engine of [`planned`] for quotas of so many MiB.
pub(crate) fn target(generation: i64, quotas: [u64; 2]) -> Target {
    let standing = Standing::new(planned());
    let by_hand = ByHand {
        quotas: Some(quotas.map(mib).to_vec()),
        ..ByHand::default()
    };
    let told = standing
        .refit(changed(&planned().request, &by_hand))
        .unwrap();
    convert::target(&told.request, &told.plan, (generation, 0.9))
}

pub(crate) fn resizes(limit: Limit) -> Resizes {
    Resizes::new(planned(), Some(target(3, [8, 9])), limit)
}

fn mib(mib: u64) -> Bytes {
    Bytes::measured(mib << 20)
}

fn quotas(revision: Option<u64>, quotas: [u64; 2]) -> ByHand {
    ByHand {
        revision,
        quotas: Some(quotas.map(mib).to_vec()),
        kv_cache: None,
    }
}

/// What a target's report says, where all else is applied.
fn told(resizes: &Resizes) -> (TargetOutcome, String, u64) {
    let report = resizes.complete(TargetReport {
        generation: 4,
        outcome: TargetOutcome::Applied,
        message: String::new(),
        overage_bytes: 0,
    });
    (report.outcome, report.message, report.overage_bytes)
}

fn applied() -> (TargetOutcome, String, u64) {
    (TargetOutcome::Applied, String::new(), 0)
}

#[test]
fn a_target_is_deferred_with_what_is_above_it_and_applied_when_it_came_about() {
    let resizes = resizes(|| None);
    assert_eq!(told(&resizes), applied());
    assert_eq!(resizes.tell(&target(4, [8, 9])), Ok(()), "the same demand");
    assert_eq!(resizes.due(), None);
    let before = resizes.by_hand().planned;
    assert_eq!(resizes.tell(&target(5, [6, 7])), Ok(()));
    let smaller = resizes.due().unwrap();
    let (outcome, message, overage) = told(&resizes);
    assert_eq!(outcome, TargetOutcome::Deferred);
    let blocks = [before.plan.kv_blocks, smaller.size().plan.kv_blocks];
    assert!(blocks[1] < blocks[0]);
    let words = format!(
        "the KV cache goes from {} to {} blocks",
        blocks[0], blocks[1]
    );
    assert_eq!(message, words);
    let total = |plan: &plimsoll_planner::Plan| -> u64 {
        plan.ranks.iter().map(|rank| rank.total().get()).sum()
    };
    assert_eq!(overage, total(&before.plan) - total(&smaller.size().plan));
    // A sleep that is refused beside it stays refused, and one under way is told, too.
    let report = |outcome| {
        resizes.complete(TargetReport {
            generation: 5,
            outcome,
            message: "is waking up".to_owned(),
            overage_bytes: 0,
        })
    };
    assert_eq!(report(TargetOutcome::Refused).message, "is waking up");
    let both = report(TargetOutcome::Deferred).message;
    assert_eq!(both, format!("{words}; is waking up"));
    assert_eq!(resizes.due(), None, "it is carried out once");
    assert!(resizes.wants(&smaller));
    resizes.settle(&smaller, Ok(()));
    assert_eq!(told(&resizes), applied());
    assert_eq!(resizes.tell(&target(6, [9, 9])), Ok(()));
    assert_eq!(told(&resizes).2, 0, "it grows");
}

#[test]
fn what_the_engine_cannot_follow_is_refused_with_the_numbers_and_changes_nothing() {
    let resizes = resizes(|| Some(mib(1 << 10)));
    let mut other = target(4, [10, 10]);
    other.kv_cache.blocks += 1;
    let why = resizes.tell(&other).unwrap_err();
    assert!(why.contains("number of KV blocks is"), "{why}");
    let mut floor = target(4, [10, 10]);
    floor.ranks[1].quota_bytes = Some(700 << 10);
    let why = resizes.tell(&floor).unwrap_err();
    assert!(why.contains("rank 1 needs"), "{why}");
    let mut fewer = target(4, [10, 10]);
    fewer.ranks.pop();
    let why = resizes.tell(&fewer).unwrap_err();
    assert!(why.contains("2 shards for 1 ranks"), "{why}");
    let why = resizes.tell(&target(4, [800, 900])).unwrap_err();
    assert!(
        why.contains("budgets and the host's reserve need") && why.contains("is 1.00 GiB"),
        "{why}"
    );
    assert_eq!(resizes.due(), None);
    assert_eq!(told(&resizes), applied());
}

#[test]
fn a_change_that_failed_is_refused_and_the_same_told_again_tries_it_again() {
    let resizes = resizes(|| None);
    let before = resizes.by_hand().planned;
    resizes.tell(&target(4, [20, 20])).unwrap();
    let first = resizes.due().unwrap();
    resizes.settle(&first, Err("rank 1: no memory".to_owned()));
    let (outcome, message, _) = told(&resizes);
    assert_eq!(outcome, TargetOutcome::Refused);
    assert_eq!(message, "the KV cache keeps its size: rank 1: no memory");
    assert_eq!(resizes.by_hand().planned, before);
    resizes.tell(&target(4, [20, 20])).unwrap();
    let again = resizes.due().unwrap();
    resizes.settle(&again, Ok(()));
    assert_eq!(told(&resizes), applied());
}

#[test]
fn who_speaks_last_is_heard_and_a_resource_that_says_the_same_does_not_speak() {
    let resizes = resizes(|| None);
    assert_eq!(resizes.ask(&quotas(Some(7), [20, 20])), Ok(()));
    let by_hand = resizes.due().unwrap();
    assert_eq!(resizes.by_hand().outcome, TargetOutcome::Deferred);
    resizes.settle(&by_hand, Ok(()));
    assert_eq!(resizes.by_hand().outcome, TargetOutcome::Applied);
    resizes.tell(&target(4, [8, 9])).unwrap();
    assert_eq!(resizes.due(), None);
    assert_eq!(told(&resizes), applied());
    let older = NotBegun::Older { told: 6, newest: 7 };
    assert_eq!(resizes.ask(&quotas(Some(6), [9, 9])), Err(older));
    // What is left out is as it was wanted last.
    let smaller = ByHand {
        kv_cache: Some(mib(4)),
        ..ByHand::default()
    };
    assert_eq!(resizes.ask(&smaller), Ok(()));
    let bound = resizes.due().unwrap();
    let planned = resizes.by_hand().planned;
    assert_eq!(planned.request.ranks[0].quota, Some(mib(20)));
    assert_eq!(planned.request.kv.size, Some(mib(4)));
    // The resource speaks in the middle of it.
    resizes.tell(&target(5, [10, 9])).unwrap();
    assert!(!resizes.wants(&bound));
    assert_eq!(resizes.while_wanted(&bound, || 1), None);
    let overtaken = resizes.by_hand();
    assert_eq!(overtaken.outcome, TargetOutcome::Refused);
    assert_eq!(overtaken.message, "something newer was asked for");
    let newest = resizes.due().unwrap();
    // The older one came about first, though it is heard of last.
    resizes.settle(&newest, Ok(()));
    resizes.settle(&bound, Ok(()));
    assert_eq!(resizes.by_hand().planned.size(), *newest.size());
    assert_eq!(told(&resizes), applied());
}

#[test]
fn a_change_whose_place_was_taken_is_in_force_where_the_newer_one_failed() {
    let resizes = resizes(|| None);
    resizes.tell(&target(4, [6, 7])).unwrap();
    let first = resizes.due().unwrap();
    resizes.tell(&target(5, [20, 20])).unwrap();
    let second = resizes.due().unwrap();
    resizes.settle(&second, Err("no memory".to_owned()));
    resizes.settle(&first, Ok(()));
    assert_eq!(resizes.by_hand().planned.size(), *first.size());
    assert_eq!(told(&resizes).0, TargetOutcome::Refused);
}

#[test]
fn an_engine_starts_with_what_is_wanted_by_then() {
    let resizes = resizes(|| Some(mib(100)));
    let over = resizes.held().unwrap_err();
    assert_eq!(over.limit, mib(100));
    assert!(over.needed > over.limit);
    let resizes = self::resizes(|| None);
    assert_eq!(resizes.held(), Ok(()));
    resizes.tell(&target(4, [6, 7])).unwrap();
    let started = resizes.start();
    let change = resizes.due().unwrap();
    assert_eq!(started.size(), *change.size());
    resizes.settle(&change, Ok(()));
    assert_eq!(told(&resizes), applied());
}

/// The kernel drops what is no whole page of a limit.
#[test]
fn a_limit_in_whole_pages_holds_a_plan_that_ends_within_a_page() {
    let needed = planned().within(Some(mib(1))).unwrap_err().needed.get();
    // Of any host reserve, whole pages or not.
    let kept = Bytes::measured(needed / 4096 * 4096);
    assert_eq!(planned().within(Some(kept)), Ok(()));
    let less = Bytes::measured(kept.get() - 4096);
    assert!(planned().within(Some(less)).is_err());
    assert_ne!(needed % 4096, 0, "the plan says nothing of it");
}
