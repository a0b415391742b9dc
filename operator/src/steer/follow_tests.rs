//! What is told where a container's memory limit does not come, and once it is there.

use super::tests::{one, told};
use super::*;
use crate::pods::limit::{MemoryLimit, Resize};

/// An engine that was told generation 3 and needs 5 of the 4 bytes that it has for the next.
fn short(resize: Resize) -> Engine {
    let mut engine = one(
        "a",
        Hears::Yes,
        Some(told(3, TargetOutcome::Applied, "", 0)),
    );
    engine.limit = Some(Limit {
        wanted: 5,
        is: MemoryLimit {
            asked: Some(5),
            in_force: Some(4),
            resize,
            ..MemoryLimit::default()
        },
        unplaced: false,
        tried: None,
    });
    engine
}

fn tells(engine: &Engine) -> Option<bool> {
    let steer = steer(4, std::slice::from_ref(engine));
    steer.tell.first().map(|tell| tell.held)
}

#[test]
fn a_limit_that_does_not_come_keeps_no_engine_from_the_rest_of_its_target() {
    let words = || "Deferred: no room".to_owned();
    let pending = |never| Resize::Pending {
        never,
        words: words(),
    };
    for (resize, tell) in [
        (Resize::Nothing, None),
        (Resize::UnderWay(String::new()), None),
        (Resize::UnderWay(words()), Some(false)),
        (pending(false), Some(false)),
        (pending(true), Some(false)),
    ] {
        let engine = short(resize.clone());
        assert_eq!(tells(&engine), tell, "{resize:?}");
        assert!(steer(4, &[engine]).raising, "its file stays: {resize:?}");
    }
    let changed = |change: fn(&mut Limit)| {
        let mut engine = short(Resize::Pending {
            never: false,
            words: String::new(),
        });
        change(engine.limit.as_mut().unwrap());
        tells(&engine)
    };
    assert_eq!(changed(|limit| limit.is.unseen = true), None, "it may fall");
    assert_eq!(changed(|limit| limit.is.asked = Some(4)), None, "asked for");
    let refused = changed(|limit| {
        limit.is.asked = Some(4);
        limit.tried = Some(Tried {
            bytes: 5,
            ago: Duration::ZERO,
            refused: Some("quota".to_owned()),
        });
    });
    assert_eq!(refused, Some(false));
    assert_eq!(changed(|limit| limit.is.in_force = Some(5)), Some(true));
}

#[test]
fn who_refused_without_the_limit_is_told_once_more_when_it_is_there() {
    let refusal = told(4, TargetOutcome::Refused, "the limit is 4", 0);
    let mut engine = short(Resize::Pending {
        never: false,
        words: "Deferred: no room".to_owned(),
    });
    engine.reported = Some(refusal.clone());
    assert_eq!(tells(&engine), None, "it was told");
    let stand = |engine: &Engine| steer(4, std::slice::from_ref(engine)).stand;
    let Stand::Pending(words) = stand(&engine) else {
        panic!("{:?}", stand(&engine));
    };
    assert!(words.contains("does not have it yet"), "{words}");
    assert!(words.contains("Deferred: no room"), "{words}");
    engine.limit.as_mut().unwrap().is.in_force = Some(5);
    assert_eq!(tells(&engine), Some(true));
    engine.tries.held = Some(3);
    assert_eq!(tells(&engine), Some(true));
    engine.tries.held = Some(4);
    assert_eq!(tells(&engine), None, "it had its limit");
    assert!(matches!(stand(&engine), Stand::Refused(words) if words.ends_with("the limit is 4")));
}
