//! Watches that fail and begin anew.

use std::sync::Mutex;

use serde_json::json;

use super::*;

/// One life of a watch.
type Life = Vec<watcher::Result<Event<u8>>>;

fn lives(lives: Vec<Life>) -> impl Fn() -> BoxStream<'static, watcher::Result<Event<u8>>> + Send {
    let lives = Mutex::new(lives.into_iter());
    move || {
        let life = lives.lock().unwrap().next().unwrap_or_default();
        stream::iter(life).chain(stream::pending()).boxed()
    }
}

#[tokio::test]
async fn a_watch_that_fails_lists_again_and_is_well_once_that_list_is_whole() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let watches = Arc::new(Watches::new(Arc::clone(&metrics)));
    let observed = watches.begin("Pod", None);
    let gone = || Err(watcher::Error::NoResourceVersion);
    let begin = lives(vec![
        vec![Ok(Event::Init), Ok(Event::InitDone), gone()],
        vec![gone()],
        vec![
            Ok(Event::Init),
            Ok(Event::InitApply(1)),
            Ok(Event::InitDone),
        ],
    ]);
    let mut events = Box::pin(persistent(begin, Duration::from_millis(1)));
    let mut seen = Vec::new();
    for _ in 0..7 {
        let event = events.next().await.unwrap();
        seen.push(event.is_ok());
        observe(&observed, "Pod", event);
        let failing = metrics
            .text()
            .unwrap()
            .contains("watch_failing{kind=\"Pod\"} 1");
        assert_eq!(failing, (3..=6).contains(&seen.len()), "{seen:?}");
    }
    assert_eq!(seen, [true, true, false, false, true, true, true]);
}

#[test]
fn what_a_watch_says_of_its_failure_holds_nothing_of_what_it_was_sent() {
    let error = serde_json::from_value::<u32>(json!("hunter2")).unwrap_err();
    let error = watcher::Error::InitialListFailed(kube::Error::SerdeError(error));
    let said = words(&error);
    assert!(
        said.starts_with("list: ") && !said.contains("hunter2"),
        "{said}"
    );
    let status = kube::core::Status::failure(&"x".repeat(100_000), "Invalid");
    let said = words(&watcher::Error::WatchError(status.boxed()));
    assert!(said.len() < 1200, "{}", said.len());
}
