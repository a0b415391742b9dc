//! Clients that mean harm, against a pod with its default memory limit: it lives, its probes are
//! answered, and so are those who ask honestly.
//!
//! 40 s of it, or as many as `PLIMSOLL_HOSTILE_SECONDS` says. All of it stays between this machine
//! and the pod, and every loop ends with the test.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use rustix::process::{Resource as Limited, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::{MODEL, NAMESPACE, pod_of, ready, seconds};
use crate::http::{Request, Target};
use crate::interrupt;
use crate::kube::{Forward, Kubernetes};
use crate::test::observe::{cgroup_bytes, complete, name_of, pod_port};
use crate::test::world::World;
use crate::test::{Passed, expect, expect_eq, figures};

/// The largest body that is taken.
const BODY: usize = 4 << 20;
const IDLE_SOCKETS: usize = 2000;

/// What the honest ones count.
#[derive(Debug, Default)]
struct Tally {
    asked: AtomicU32,
    answered: AtomicU32,
    probed: AtomicU32,
    probes_lost: AtomicU32,
}

pub(super) fn outlived(world: &World<'_>) -> Passed {
    let (kubernetes, pod) = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, MODEL);
    let address = |port| match pod_port(&pod, port)? {
        Target::Tcp(address) => Ok(address),
        Target::Unix(_) => anyhow::bail!("a pod has no socket file"),
    };
    let (api, probes) = (address(names::PORT_HTTP)?, address(names::PORT_PROBES)?);
    open_many_files()?;
    let (end, tally) = (AtomicBool::new(false), Tally::default());
    let length = seconds()?;
    let mut most = 0;
    let lost_before = failed_probes(&kubernetes, &pod)?;
    let go_on = || !end.load(Ordering::Relaxed);
    thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            while go_on() {
                let held: Vec<_> = (0..60).filter_map(|_| half_sent(api)).collect();
                thread::sleep(Duration::from_secs(5));
                drop(held);
            }
        });
        scope.spawn(|| {
            while go_on() {
                // Slow ones: a byte each second, so that no silence ever gives them away.
                let mut held: Vec<_> = (0..60).filter_map(|_| begin(api, &head(1000))).collect();
                for _ in 0..10 {
                    held.retain_mut(|stream| stream.write_all(b" ").is_ok());
                    thread::sleep(Duration::from_secs(1));
                }
            }
        });
        scope.spawn(|| {
            while go_on() {
                let held: Vec<_> = (0..IDLE_SOCKETS).filter_map(|at| idle(api, at)).collect();
                thread::sleep(Duration::from_secs(5));
                drop(held);
            }
        });
        for _ in 0..4 {
            scope.spawn(|| {
                while go_on() {
                    abandoned(api);
                    thread::sleep(Duration::from_millis(100));
                }
            });
        }
        scope.spawn(|| {
            while go_on() {
                tally.asked.fetch_add(1, Ordering::Relaxed);
                let answered = honest(api);
                tally
                    .answered
                    .fetch_add(u32::from(answered), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(200));
            }
        });
        scope.spawn(|| {
            while go_on() {
                for path in ["/livez", "/readyz", "/metrics"] {
                    let get = Request::new("GET", path).timeout(Duration::from_secs(5));
                    let lost = !get
                        .send(&Target::Tcp(probes))
                        .is_ok_and(|a| a.status == 200);
                    tally.probed.fetch_add(1, Ordering::Relaxed);
                    tally
                        .probes_lost
                        .fetch_add(u32::from(lost), Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(500));
            }
        });
        let began = Instant::now();
        let mut watch = || -> Result<()> {
            while began.elapsed() < length {
                interrupt::check()?;
                most = most.max(cgroup_bytes(&pod, names::CONTAINER_ENGINE)?);
                thread::sleep(Duration::from_millis(250));
            }
            Ok(())
        };
        let watched = watch();
        end.store(true, Ordering::Relaxed);
        watched
    })?;
    let count = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
    let report = figures::memory_of(&kubernetes, &pod)?;
    println!(
        "           {} s: cgroup at most {most} bytes of {}; {} of {} honest requests answered, {} \
         of {} probes lost",
        length.as_secs(),
        report["host"]["limitBytes"],
        count(&tally.answered),
        count(&tally.asked),
        count(&tally.probes_lost),
        count(&tally.probed),
    );
    println!("           host ledger: {}", report["host"]);
    let now = pod_of(&resource)?;
    expect_eq("the pod", &name_of(&now), &name_of(&pod))?;
    let restarts = now["status"]["containerStatuses"][0]["restartCount"].as_u64();
    expect_eq("restarts", &restarts, &Some(0))?;
    expect_eq("probes lost", &count(&tally.probes_lost), &0)?;
    let lost = failed_probes(&kubernetes, &pod)?;
    expect_eq("the kubelet's own failed probes", &lost, &lost_before)?;
    expect(count(&tally.asked) >= 5, || {
        "hardly anybody asked".to_owned()
    })?;
    expect_eq("answered", &count(&tally.answered), &count(&tally.asked))?;
    Ok(5)
}

/// Far beyond the limit: its sender hears the refusal, and the forward goes on.
pub(super) fn forwarded(world: &World<'_>) -> Passed {
    let (kubernetes, pod) = ready(world)?;
    let what = format!("pod/{}", name_of(&pod));
    let forward = Forward::open(&kubernetes.kubectl, NAMESPACE, &what, names::PORT_HTTP)?;
    let target = Target::Tcp(SocketAddr::from(([127, 0, 0, 1], forward.port())));
    for _ in 0..2 {
        let answer = Request::new("POST", "/v1/completions")
            .body("application/json", vec![b' '; 70_000_000])
            .timeout(Duration::from_secs(60))
            .send(&target)?;
        expect_eq("status of 70 MB", &answer.status, &413)?;
        let answer = complete(&target, MODEL)?;
        expect_eq("status afterwards", &answer.status, &200)?;
    }
    Ok(2)
}

/// Events of the kubelet that say a probe of this pod failed, after it was ready.
fn failed_probes(kubernetes: &Kubernetes, pod: &Value) -> Result<u64> {
    let events = format!("/api/v1/namespaces/{NAMESPACE}/events");
    let selector = format!(
        "fieldSelector=reason%3DUnhealthy%2CinvolvedObject.name%3D{}",
        name_of(pod)
    );
    let events = kubernetes.api.list(&format!("{events}?{selector}"))?;
    let times = events
        .iter()
        .map(|event| event["count"].as_u64().unwrap_or(1));
    Ok(times.sum())
}

/// Sockets of this process: the many it opens, and what it has beside them.
fn open_many_files() -> Result<()> {
    let mut limit = getrlimit(Limited::Nofile);
    let wanted = 2 * IDLE_SOCKETS as u64;
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted.min(limit.maximum.unwrap_or(wanted)));
        setrlimit(Limited::Nofile, limit).context("cannot open so many sockets")?;
    }
    Ok(())
}

fn head(length: usize) -> Vec<u8> {
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    );
    head.into_bytes()
}

/// Connects and sends what is taken of it; None when the server has no time.
fn begin(address: SocketAddr, bytes: &[u8]) -> Option<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream
        .set_write_timeout(Some(Duration::from_secs(2)))
        .ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    // Being cut off is what it deserves.
    let _ = stream.write_all(bytes);
    Some(stream)
}

/// A body of which the last bytes never come.
fn half_sent(address: SocketAddr) -> Option<TcpStream> {
    let mut bytes = head(BODY);
    bytes.resize(bytes.len() + BODY - 100_000, b' ');
    begin(address, &bytes)
}

/// Says nothing, or never ends its head.
fn idle(address: SocketAddr, at: usize) -> Option<TcpStream> {
    let half = format!("GET /livez HTTP/1.1\r\nx: {}", "y".repeat(8000));
    let texts = [&b""[..], half.as_bytes()];
    begin(address, texts[at % 2])
}

/// Texts as large as they may be, 3.9 MB of them, from somebody who does not wait.
fn abandoned(address: SocketAddr) {
    let text = "it was the best of times ".repeat(5000);
    let body = json!({"model": MODEL, "prompt": vec![text; 31]}).to_string();
    let mut bytes = head(body.len());
    bytes.extend(body.into_bytes());
    if let Some(mut stream) = begin(address, &bytes) {
        let mut byte = [0];
        let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
        let _ = stream.read(&mut byte);
    }
}

/// What a client does that hears Retry-After, or whose connection was closed: it asks again, twice.
fn honest(address: SocketAddr) -> bool {
    (0..3).any(|_| {
        let answered = complete(&Target::Tcp(address), MODEL).is_ok_and(|it| it.status == 200);
        if !answered {
            thread::sleep(Duration::from_secs(2));
        }
        answered
    })
}
