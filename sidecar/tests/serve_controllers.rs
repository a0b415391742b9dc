//! The real binary with two masters: its operator's target, and whoever has its admin port. The one that
//! spoke last is heard, and the resource speaks only when what it says changes.
#![allow(clippy::unwrap_used, reason = "a test")]

mod served;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use served::Served;
use served::documents::{documents, retold};

const PATIENCE: Duration = Duration::from_secs(120);
const ROUNDS: u64 = 12;
/// Asked meanwhile, one after the other.
const REQUESTS: usize = 60;

/// A process with a target, and what its operator told it last.
struct Controlled {
    served: Served,
    boot: Value,
    target: Value,
    folder: PathBuf,
}

impl Drop for Controlled {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Controlled {
    fn start(name: &str) -> Controlled {
        let folder = format!("plimsoll-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).unwrap();
        let [(boot_name, boot), (target_name, target)] = documents();
        fs::write(folder.join(boot_name), boot.to_string()).unwrap();
        fs::write(folder.join(target_name), target.to_string()).unwrap();
        let controlled = Controlled {
            served: Served::start_config(&folder),
            boot,
            target,
            folder,
        };
        controlled.until("ready", |of| of.served.probe("/readyz") == 200);
        controlled
    }

    fn until(&self, what: &str, done: impl Fn(&Controlled) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "{what}: {}", self.memory());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn memory(&self) -> Value {
        self.served.get_admin("/memory", "").json()
    }

    fn state(&self) -> String {
        self.memory()["state"].as_str().unwrap().to_owned()
    }

    /// The operator speaks: its next generation, with this sleep.
    fn tell(&mut self, sleep: Option<u8>) {
        self.target["generation"] = json!(self.target["generation"].as_i64().unwrap() + 1);
        let target = self.target.as_object_mut().unwrap();
        match sleep {
            Some(level) => target.insert("sleep".to_owned(), json!({"level": level})),
            None => target.remove("sleep"),
        };
        put(&self.served, &self.target);
        self.until("the target", |of| {
            let report = of.served.get_admin("/target", "").json();
            report["outcome"] == "Applied"
        });
    }

    /// Somebody speaks on the admin port.
    fn by_hand(&self, path: &str) {
        let told = self.served.post_admin(path, "");
        assert_eq!(told.status, 200, "{path}: {}", told.body);
    }

    fn said(&self) -> Value {
        let request = json!({"model": "chat", "prompt": "a", "max_tokens": 24, "temperature": 0});
        let answer = self.served.post("/v1/completions", &request.to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["choices"][0]["text"].clone()
    }
}

fn put(served: &Served, target: &Value) {
    let told = served.put_admin("/target", &target.to_string());
    assert_eq!(told.status, 200, "{}", told.body);
}

#[test]
fn whoever_spoke_last_is_heard_and_a_resource_that_says_the_same_does_not_speak() {
    let mut of = Controlled::start("controllers");
    let first = of.said();
    of.tell(Some(1));
    assert_eq!(of.state(), "Asleep");
    of.by_hand("/wake_up");
    assert_eq!((of.state().as_str(), of.said()), ("Serving", first.clone()));
    of.tell(Some(1));
    assert_eq!(of.state(), "Serving", "the resource says nothing new");
    of.tell(Some(2));
    assert_eq!(of.state(), "Asleep", "a deeper sleep is another one");
    of.tell(None);
    assert_eq!((of.state().as_str(), of.said()), ("Serving", first.clone()));
    of.by_hand("/sleep?level=1&mode=keep");
    of.tell(None);
    assert_eq!(of.state(), "Asleep", "the resource says nothing new");
    of.tell(Some(1));
    of.tell(None);
    assert_eq!((of.state().as_str(), of.said()), ("Serving", first));
}

/// Both speak at once, of sleep and of memory: each is answered, and what was said last is in force.
#[test]
fn two_controllers_at_once_are_both_answered_and_the_last_word_is_in_force() {
    let mut of = Controlled::start("both");
    let first = of.said();
    let Controlled {
        served,
        boot,
        target,
        ..
    } = &of;
    let told = std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let request = r#"{"model": "chat", "prompt": "a", "max_tokens": 4}"#;
            for _ in 0..REQUESTS {
                let answer = served.post("/v1/completions", request);
                assert!(matches!(answer.status, 200 | 503), "{}", answer.body);
            }
        });
        let hands = scope.spawn(|| {
            for round in 0..ROUNDS {
                let level = 1 + round % 2;
                let path = format!("/sleep?level={level}&mode=keep");
                for path in [path.as_str(), "/wake_up"] {
                    assert_eq!(served.post_admin(path, "").status, 200, "{path}");
                }
                let size = json!({"kvCache": {"size": format!("{}Ki", 1024 + 64 * round)}});
                let sized = served.post_admin("/quota", &size.to_string());
                // 409: the resource spoke in the same moment.
                assert!(matches!(sized.status, 200 | 202 | 409), "{}", sized.body);
            }
        });
        let mut told = target.clone();
        for round in 0..ROUNDS {
            told = retold(boot, &told, [8 + round % 3, 9 + round % 5]);
            let target = told.as_object_mut().unwrap();
            match round % 3 {
                0 => target.insert("sleep".to_owned(), json!({"level": 1 + round % 2})),
                _ => target.remove("sleep"),
            };
            put(served, &told);
        }
        hands.join().unwrap();
        clients.join().unwrap();
        told
    });
    // Awake for both, and then a size that the resource has not asked for yet.
    of.target = told;
    of.tell(Some(1));
    of.tell(None);
    of.target = retold(&of.boot, &of.target, [20, 21]);
    of.tell(None);
    let memory = of.memory();
    assert_eq!(memory["state"], "Serving");
    assert_eq!(
        memory["effective"]["kvCacheTokens"],
        of.target["kvCache"]["tokens"]
    );
    for (rank, quota) in memory["ranks"].as_array().unwrap().iter().zip([20, 21]) {
        assert_eq!(rank["quotaBytes"], quota << 20);
        let rows = rank["accounts"].as_array().unwrap();
        assert!(
            rows.iter()
                .all(|row| row["reservedBytes"] == row["plannedBytes"]),
            "{rank}"
        );
    }
    assert_eq!(of.said(), first);
}
