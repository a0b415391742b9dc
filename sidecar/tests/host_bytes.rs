//! Clients that mean harm against the real binary, for some seconds: what the process ever held
//! stays below the memory limit that its plan leads to, and those who ask honestly are answered.
//! The long form of it, in a cgroup with that limit, is `e2e/src/test/hostile.rs`.
#![allow(clippy::unwrap_used, reason = "a test")]

mod cgroup;
mod served;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cgroup::Cgroup;
use clap::Parser;
use plimsoll_planner::{cpu_memory_limit, host};
use plimsoll_sidecar::args::{Cli, Command};
use plimsoll_sidecar::config::plan_flags;
use plimsoll_sidecar::model::ModelFolder;
use serde_json::json;
use served::{ModelCopy, Served, fixture, post_text};

/// How long the clients go on, or as many seconds as PLIMSOLL_HOSTILE_SECONDS says.
const LENGTH: Duration = Duration::from_secs(6);
const FLAGS: [&str; 4] = ["--memory-limit", "512Mi", "--max-model-len", "32768"];
const BODY: usize = 4 << 20;

/// The fixture with the context of a grown-up model, so that its texts may be as long.
fn long_model() -> ModelCopy {
    let config = fs::read_to_string(fixture("tiny-llama").join("config.json")).unwrap();
    let config = config.replace(
        "\"max_position_embeddings\": 512",
        "\"max_position_embeddings\": 32768",
    );
    ModelCopy::new("tiny-llama", "config.json", &config)
}

fn start(model: &ModelCopy) -> Served {
    let flags = [&FLAGS[..], &["--served-model-name", "tiny-llama"]].concat();
    Served::start(model.path(), &flags)
}

/// The most that the process has ever had resident, in bytes.
fn peak(served: &Served) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", served.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().strip_suffix("kB").unwrap();
    kib.trim().parse::<u64>().unwrap() * 1024
}

/// The container's limit for the same flags, as the operator computes it.
fn limit(model: &ModelCopy) -> u64 {
    let line = ["x", "plan", model.path()];
    let args = line.iter().chain(&served::SMALL[..6]).chain(&FLAGS);
    let Command::Plan(flags) = Cli::try_parse_from(args).unwrap().command else {
        panic!("not a plan")
    };
    let model = ModelFolder::open(std::path::Path::new(model.path())).unwrap();
    let planned = plan_flags(&flags.memory, &model).unwrap();
    cpu_memory_limit(&planned.request).unwrap().get()
}

fn connect(address: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .ok()?;
    stream
        .set_write_timeout(Some(Duration::from_secs(2)))
        .ok()?;
    Some(stream)
}

/// Sends all of it if the server takes it, and stays.
fn begin(address: SocketAddr, text: &[u8]) -> Option<TcpStream> {
    let mut stream = connect(address)?;
    // Being cut off is what they deserve.
    let _ = stream.write_all(text);
    Some(stream)
}

/// Bodies of which the last byte never comes.
fn half_sent(address: SocketAddr) -> Vec<TcpStream> {
    let text = post_text("/v1/completions", &" ".repeat(BODY));
    let cut = &text.as_bytes()[..text.len() - 100];
    (0..10).filter_map(|_| begin(address, cut)).collect()
}

/// The largest prompts that are tokenized at all, thirty in a body; their clients do not wait.
fn abandoned(address: SocketAddr) {
    let words = "it was the best of times ".repeat(250 << 10);
    let most = usize::try_from(host::largest_text(32_768)).unwrap();
    let text = &words[..most - 1];
    let prompts = vec![text; BODY / most - 1];
    let body = json!({"model": "tiny-llama", "prompt": prompts}).to_string();
    drop(begin(
        address,
        post_text("/v1/completions", &body).as_bytes(),
    ));
    std::thread::sleep(Duration::from_millis(20));
}

/// Few bytes, many values.
fn values(address: SocketAddr) {
    let maps = vec!["{}"; 30_000].join(",");
    let body = format!(r#"{{"model": "tiny-llama", "x": [{maps}]}}"#);
    drop(begin(
        address,
        post_text("/v1/completions", &body).as_bytes(),
    ));
}

/// Sockets that say nothing, or never end their head.
fn idle(address: SocketAddr) -> Vec<TcpStream> {
    let head = format!("GET /livez HTTP/1.1\r\nx: {}", "y".repeat(12_000));
    let texts = [&b""[..], head.as_bytes()];
    (0..300)
        .filter_map(|at| begin(address, texts[at % 2]))
        .collect()
}

/// Its status, or None when the server could not be reached.
fn ask(address: SocketAddr, request: &str) -> Option<u16> {
    let mut stream = connect(address)?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    Some(served::answer(&bytes).status)
}

#[test]
fn hostile_clients_hold_no_more_than_the_reserve_and_honest_ones_are_answered() {
    let model = long_model();
    let limit = limit(&model);
    let cgroup = Cgroup::new(limit);
    let served = match &cgroup {
        Some(cgroup) => {
            let flags = [&FLAGS[..], &["--served-model-name", "tiny-llama"]].concat();
            Served::start_inside(model.path(), &flags, |command| cgroup.around(command))
        }
        None => start(&model),
    };
    let length = std::env::var("PLIMSOLL_HOSTILE_SECONDS").map_or(LENGTH, |seconds| {
        Duration::from_secs(seconds.parse().unwrap())
    });
    let before = peak(&served);
    let end = AtomicBool::new(false);
    let (asked, answered) = (AtomicU32::new(0), AtomicU32::new(0));
    let probes = AtomicU32::new(0);
    let chat = json!({"model": "tiny-llama", "prompt": "hello", "max_tokens": 2}).to_string();
    let chat = post_text("/v1/completions", &chat);
    let go_on = || !end.load(Ordering::Relaxed);
    let api = served.api;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while go_on() {
                let held = half_sent(api);
                std::thread::sleep(Duration::from_secs(3));
                drop(held);
            }
        });
        scope.spawn(|| {
            while go_on() {
                let held = idle(api);
                std::thread::sleep(Duration::from_secs(1));
                drop(held);
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while go_on() {
                    abandoned(api);
                }
            });
        }
        scope.spawn(|| {
            while go_on() {
                values(api);
            }
        });
        scope.spawn(|| {
            while go_on() {
                let began = Instant::now();
                for path in ["/livez", "/readyz", "/metrics"] {
                    let get =
                        format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
                    assert_eq!(ask(served.probes, &get), Some(200), "{path}");
                    // What the kubelet allows.
                    assert!(began.elapsed() < Duration::from_secs(5), "{path} was slow");
                }
                probes.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        scope.spawn(|| {
            while go_on() {
                asked.fetch_add(1, Ordering::Relaxed);
                // Twice: what a client does that heard Retry-After, or whose socket was closed.
                let mut tries = (0..2).filter_map(|_| ask(api, &chat));
                let is_answer = tries.any(|status| status == 200);
                answered.fetch_add(u32::from(is_answer), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        std::thread::sleep(length);
        end.store(true, Ordering::Relaxed);
    });
    let after = peak(&served);
    let (asked, answered) = (asked.into_inner(), answered.into_inner());
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "peak {} MiB before, {} MiB after, limit {} MiB; {answered} of {asked} answered, {} rounds \
         of probes",
        mib(before),
        mib(after),
        mib(limit),
        probes.into_inner()
    );
    if let Some(cgroup) = &cgroup {
        println!("cgroup: at most {:?} MiB", cgroup.peak().map(mib));
        assert_eq!(cgroup.kills(), 0, "the kernel killed for memory");
    }
    println!(
        "host ledger: {}",
        served.get_admin("/memory", "").json()["host"]
    );
    assert!(
        after <= limit,
        "{after} bytes were resident, {limit} are planned"
    );
    assert!(asked >= 3 && answered == asked, "{answered} of {asked}");
}

/// The factor that the host's reserve counts with.
#[test]
fn tokenizing_takes_no_more_for_a_byte_than_is_planned() {
    let model = long_model();
    let served = start(&model);
    let tokenize = |bytes: usize| {
        let text = "it was the best of times, it was the worst of times; ".repeat(bytes / 40);
        let body = json!({"prompt": &text[..bytes]}).to_string();
        let answer = served.post("/tokenize", &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    tokenize(1000);
    let before = peak(&served);
    let bytes = usize::try_from(host::largest_text(32_768)).unwrap();
    tokenize(bytes);
    let taken = peak(&served) - before;
    let each = taken / bytes as u64;
    println!("{each} bytes of memory for a byte of text");
    assert!(each <= host::TOKENIZING_BYTES, "{each} for each byte");
    assert!(each >= 10, "nothing was measured");
}

/// Headers of the size that is read, each of what takes most memory for a byte, and one far beyond it.
fn headers() -> Vec<String> {
    const MOST: usize = 4 << 20;
    let many: Vec<String> = (0..30_000)
        .map(|at| format!(r#""{at}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let shape = |bytes: usize| {
        let ones = "1,".repeat(bytes / 2 - 50);
        format!(r#"{{"z":{{"dtype":"F32","shape":[{ones}1],"data_offsets":[0,4]}}}}"#)
    };
    let pairs = r#""":"","#.repeat(MOST / 6 - 20);
    let pairs = format!(r#"{{"__metadata__":{{{pairs}"":""}}}}"#);
    vec![
        format!("{{{}}}", many.join(",")),
        pairs,
        shape(MOST),
        shape(88_000_000),
    ]
}

#[test]
fn headers_of_adapters_take_little_memory_whatever_stands_in_them() {
    let folder = std::env::temp_dir().join(format!("plimsoll-headers-{}", std::process::id()));
    let plain = fixture("../adapters/plain/adapter_config.json");
    let mut bodies = Vec::new();
    for (at, header) in headers().into_iter().enumerate() {
        let adapter = folder.join(at.to_string());
        fs::create_dir_all(&adapter).unwrap();
        fs::copy(&plain, adapter.join("adapter_config.json")).unwrap();
        let length = (header.len() as u64).to_le_bytes();
        let bytes = [&length[..], header.as_bytes(), &[0; 4]].concat();
        fs::write(adapter.join("adapter_model.safetensors"), bytes).unwrap();
        bodies.push(json!({"lora_name": "x", "lora_path": adapter}).to_string());
    }
    let root = folder.to_str().unwrap();
    let flags = [
        "--control-api",
        "loopback",
        "--adapter-root",
        root,
        "--max-adapters",
        "1",
    ];
    let served = Served::start("tiny-llama", &flags);
    let before = peak(&served);
    // Three at once of each.
    std::thread::scope(|scope| {
        for body in bodies.iter().cycle().take(3 * bodies.len()) {
            scope.spawn(|| {
                let answer = served.post("/v1/load_lora_adapter", body);
                assert_eq!(answer.status, 400, "{}", answer.body);
                let code = &answer.json()["error"]["code"];
                assert_eq!(code, "adapter_refused", "{}", answer.body);
            });
        }
    });
    let taken = peak(&served) - before;
    fs::remove_dir_all(&folder).unwrap();
    println!("{} KiB were taken", taken >> 10);
    assert!(taken < 96 << 20, "{taken} bytes");
}
