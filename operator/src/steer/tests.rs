//! What status says of engines, and when one is told again.

use super::*;

pub(super) fn told(
    generation: i64,
    outcome: TargetOutcome,
    words: &str,
    overage: u64,
) -> TargetReport {
    TargetReport {
        generation,
        outcome,
        message: words.to_owned(),
        overage_bytes: overage,
    }
}

pub(super) fn one(name: &str, hears: Hears, reported: Option<TargetReport>) -> Engine {
    Engine {
        pod: name.to_owned(),
        uid: format!("uid-{name}"),
        hears,
        reported,
        confirmed: true,
        awake: true,
        limit: None,
        tries: Tries::default(),
    }
}

#[test]
fn status_names_the_pod_and_the_numbers() {
    use TargetOutcome::{Applied, Deferred, Refused};
    let applied = one("a", Hears::Yes, Some(told(4, Applied, "", 0)));
    let stand = |engines: &[Engine]| steer(4, engines).stand;
    assert_eq!(stand(&[]), Stand::Nobody);
    assert_eq!(
        stand(&[applied.clone(), one("z", Hears::Ends, None)]),
        Stand::Applied("generation 4 is in force in all engines (1)".to_owned())
    );
    let pending = |engine: Engine| match stand(&[applied.clone(), engine]) {
        Stand::Pending(words) => words,
        other => panic!("{other:?}"),
    };
    let begin = "generation 4 is in force in 1 of 2 engines; pod b";
    for (hears, words) in [
        (Hears::Yes, "is being told"),
        (Hears::Loading, "is loading"),
        (Hears::Silent, "is not heard"),
    ] {
        assert_eq!(pending(one("b", hears, None)), format!("{begin} {words}"));
    }
    let mut failed = one("b", Hears::Yes, Some(told(3, Applied, "", 0)));
    failed.tries.failed = Some(Failed {
        generation: 4,
        times: 3,
        ago: Duration::ZERO,
        words: "connect: refused".to_owned(),
    });
    assert_eq!(
        pending(failed.clone()),
        format!("{begin} could not be told, and is told again: connect: refused")
    );
    let newer = one("b", Hears::Yes, Some(told(5, Applied, "", 0)));
    assert_eq!(
        pending(newer),
        format!("{begin} was told generation 5 already")
    );
    let sleepy = one(
        "b",
        Hears::Yes,
        Some(told(4, Deferred, "is going to sleep", 0)),
    );
    let words = "generation 4 is in force in 0 of 1 engines; pod b is going to sleep";
    assert_eq!(steer(4, &[sleepy]).stand, Stand::Deferred(words.to_owned()));
    let deferred = one("b", Hears::Yes, Some(told(4, Deferred, "", 3 << 20)));
    assert_eq!(
        stand(&[applied.clone(), deferred.clone()]),
        Stand::Deferred(format!("{begin} holds 3.00 MiB above it"))
    );
    let refused = one(
        "b",
        Hears::Yes,
        Some(told(4, Refused, "needs a restart", 0)),
    );
    assert_eq!(
        stand(&[deferred, failed, refused]),
        Stand::Refused(
            "generation 4 is in force in 0 of 3 engines; pod b: needs a restart".to_owned()
        )
    );
}

#[test]
fn pauses_double_up_to_a_minute_and_end_with_a_newer_generation() {
    let mut engine = one("a", Hears::Yes, None);
    let mut look = |generation, times, ago| {
        engine.tries.failed = Some(Failed {
            generation: 4,
            times,
            ago: Duration::from_secs(ago),
            words: String::new(),
        });
        let steer = steer(generation, std::slice::from_ref(&engine));
        (
            steer.tell.len(),
            steer.look_again.map(|rest| rest.as_secs()),
        )
    };
    assert_eq!(look(4, 1, 0), (0, Some(1)));
    assert_eq!(look(4, 1, 1), (1, None));
    assert_eq!(look(4, 4, 1), (0, Some(7)));
    assert_eq!(look(4, 7, 0), (0, Some(60)));
    assert_eq!(look(4, u32::MAX, 59), (0, Some(1)));
    assert_eq!(look(4, u32::MAX, 60), (1, None));
    assert_eq!(look(5, u32::MAX, 0), (1, None));
}

#[test]
fn an_answer_counts_until_a_report_may_have_come() {
    use TargetOutcome::Applied;
    let mut engine = one("a", Hears::Yes, Some(told(3, Applied, "", 0)));
    let mut look = |seconds| {
        let ago = Duration::from_secs(seconds);
        engine.tries.answer = Some((told(4, Applied, "", 0), ago));
        let steer = steer(4, std::slice::from_ref(&engine));
        (
            steer.tell.len(),
            steer.look_again.map(|rest| rest.as_secs()),
        )
    };
    assert_eq!(look(0), (0, Some(10)));
    assert_eq!(look(9), (0, Some(1)));
    // It began again, with the files of a moment ago.
    assert_eq!(look(10), (1, None));
}

/// A call that tells one thing says nothing of the other, but that it is under way.
#[test]
fn a_sleep_that_was_told_alone_is_no_target_that_was_told() {
    use TargetOutcome::{Applied, Refused};
    let answered = |what, outcome| Tries {
        what,
        answer: Some((told(4, outcome, "", 0), Duration::ZERO)),
        held: Some(4),
        failed: Some(Failed {
            generation: 4,
            times: 3,
            ago: Duration::ZERO,
            words: String::new(),
        }),
        under_way: false,
    };
    let words = |stand: Stand| stand.words().unwrap().clone();
    for what in [What::Target, What::Sleep] {
        for outcome in [Applied, Refused] {
            for under_way in [false, true] {
                let tries = Tries {
                    under_way,
                    ..answered(what, outcome)
                };
                assert_eq!(tries.clone().telling(what), tries);
                let other = match what {
                    What::Target => What::Sleep,
                    What::Sleep => What::Target,
                };
                let mut engine = one("a", Hears::Yes, Some(told(3, Applied, "", 0)));
                engine.tries = tries.telling(other);
                let steered = to(other, 4, &[engine]);
                assert_eq!(steered.tell.len(), usize::from(!under_way), "{other:?}");
                assert_eq!(steered.look_again, None);
                assert!(words(steered.stand).ends_with("pod a is being told"));
            }
        }
    }
    let asleep = one("a", Hears::Yes, Some(told(4, Applied, "", 0)));
    assert_eq!(
        words(steer_sleep(4, &[asleep]).stand),
        "the sleep of generation 4, told alone, is in force in all engines (1)"
    );
}
