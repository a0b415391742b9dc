//! What the parts of the host's reserve really cost, measured: each figure is printed beside the
//! constant of `planner/src/host.rs` that stands for it, and must be covered by it. A constant many
//! times too large fails, too: it would be memory that no model gets.
//!
//! `cargo test -p plimsoll-sidecar --test host_costs -- --nocapture` shows the table. (Tokenizing has
//! a measurement of its own in `host_bytes.rs`.)
#![allow(clippy::unwrap_used, reason = "a test")]
#![expect(clippy::print_stdout, reason = "the table is what it is for")]

mod served;

use std::any::Any;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plimsoll_kernels::device::{Cpu, Device, Pages};
use plimsoll_planner::{Bytes, host};
use plimsoll_sidecar::cache::blocks::BlockPool;
use plimsoll_sidecar::cache::table::BlockTable;
use plimsoll_sidecar::engine::request::{TokenEvent, TokenLogprobs};
use plimsoll_sidecar::http::choice::Scored;
use plimsoll_sidecar::http::unsent::scored_bytes;
use plimsoll_sidecar::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};
use served::{Served, fixture, post_text};

const MIB: u64 = 1 << 20;

/// One measurement at a time: others would be seen in its figures.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A figure of /proc in bytes. (`smaps_rollup` counts pages; the counters of `status` lag behind.)
fn figure(process: &str, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.unwrap().trim().strip_suffix("kB").unwrap();
    kib.trim().parse::<u64>().unwrap() * 1024
}

fn resident(process: &str) -> u64 {
    figure(process, "smaps_rollup", "Pss_Anon:")
}

/// The same of a process that still takes in what it was sent: once the figure stands still.
fn settled(process: &str) -> u64 {
    const LOOKS: usize = 4;
    let end = Instant::now() + Duration::from_secs(20);
    let mut last = Vec::new();
    while Instant::now() < end {
        let now = resident(process);
        last.retain(|before| *before == now);
        last.push(now);
        if last.len() == LOOKS {
            return now;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the memory of {process} never stands still");
}

/// Prints the figure, and holds it to the constant: no more, and no less than a part of it.
fn holds(what: &str, measured: u64, constant: u64, times: u64) {
    println!("{what:<44} {measured:>12} measured {constant:>12} reserved");
    assert!(measured <= constant, "{what}: {measured} of {constant}");
    assert!(
        measured.saturating_mul(times) >= constant,
        "{what}: {constant} is more than {times} times what it takes, {measured}"
    );
}

/// What `make` leaves behind for each of `count`.
fn each<T>(count: u64, make: impl FnOnce() -> T) -> (u64, T) {
    let before = resident("self");
    let made = make();
    let taken = resident("self").saturating_sub(before);
    (taken / count, made)
}

/// A tokenizer of so many tokens: letters, pairs and triples of them, each with its merge.
fn grown_tokenizer(size: usize) -> String {
    let path = fixture("tiny-llama").join("tokenizer.json");
    let mut whole: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    whole["added_tokens"] = json!([]);
    let old = whole["model"]["vocab"].as_object().unwrap();
    let letters: Vec<String> = old
        .keys()
        .filter(|k| k.chars().count() == 1)
        .cloned()
        .collect();
    let mut vocab: Map<String, Value> = Map::new();
    let mut merges = Vec::new();
    let mut add = |token: &str| {
        let id = vocab.len();
        vocab.insert(token.to_owned(), id.into()).is_none() && id + 1 < size
    };
    letters.iter().for_each(|letter| {
        add(letter);
    });
    let pairs = letters
        .iter()
        .flat_map(|a| letters.iter().map(move |b| (a.clone(), b.clone())));
    let longer: Vec<_> = pairs
        .clone()
        .map(|(a, b)| (letters[0].clone(), a + &b))
        .collect();
    for (a, b) in pairs.chain(longer) {
        let more = add(&format!("{a}{b}"));
        merges.push(json!([a, b]));
        if !more {
            break;
        }
    }
    whole["model"]["vocab"] = Value::Object(vocab);
    whole["model"]["merges"] = Value::Array(merges);
    whole.to_string()
}

/// Tokens of answers as they wait in the engine's channel and in a whole answer.
fn unsent_tokens() -> Vec<Box<dyn Any>> {
    const TOKENS: u32 = 50_000;
    let mut all: Vec<Box<dyn Any>> = Vec::new();
    for logprob in [None, scored()] {
        let (queued, kept) = each(TOKENS.into(), || {
            let (sender, reader) = tokio::sync::mpsc::channel(TOKENS as usize);
            for index in 0..TOKENS {
                let logprob = logprob.clone();
                let token = TokenEvent::Token {
                    index,
                    id: 1,
                    logprob,
                };
                sender.try_send(token).unwrap();
            }
            (sender, reader)
        });
        let neighbours = logprob.as_ref().map_or(0, |logprob| logprob.top.len());
        let counted = TokenEvent::token_bytes(logprob.as_ref()) as u64;
        let what = format!("a token in a queue, {neighbours} neighbours");
        holds(&what, queued, counted, 2);
        all.push(Box::new(kept));
    }
    let logprobs = scored();
    let (kept, list) = each(TOKENS.into(), || {
        let mut list = Vec::new();
        for at in 0..TOKENS as usize {
            list.push(Scored {
                id: 1,
                logprobs: logprobs.clone(),
                offset: at,
            });
        }
        list
    });
    let counted = scored_bytes(logprobs.as_ref()) as u64;
    holds("a token in a whole answer, 20 neighbours", kept, counted, 2);
    all.push(Box::new(list));
    all
}

#[test]
fn what_the_engine_keeps_takes_no_more_than_is_reserved() {
    let _alone = alone();
    // What is measured is kept: memory that was freed would be used again unseen.
    let unsent = unsent_tokens();
    const BLOCKS: u32 = 300_000;
    let block_size = 16;
    let (block, kept) = each(BLOCKS.into(), || {
        let mut pool = BlockPool::new(BLOCKS);
        let per_table = 1000;
        let tables: Vec<BlockTable> = (0..BLOCKS / per_table - 1)
            .map(|at| {
                let mut table = BlockTable::new(block_size, &at.to_string());
                let tokens: Vec<u32> = (0..per_table * 16).collect();
                assert!(table.grow(&mut pool, tokens.len()));
                table.name_computed(&mut pool, &tokens, tokens.len());
                table
            })
            .collect();
        (pool, tables)
    });
    holds("a KV block", block, host::BLOCK_RECORD_BYTES, 4);
    let size = 100_000;
    let folder = std::env::temp_dir().join(format!("plimsoll-costs-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("tokenizer.json");
    fs::write(&file, grown_tokenizer(size)).unwrap();
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let (entry, tokenizer) = each(size as u64, || {
        Tokenizer::from_file(Path::new(&file)).unwrap()
    });
    fs::remove_dir_all(&folder).unwrap();
    let peak = figure("self", "status", "VmHWM:") - figure("self", "status", "VmRSS:");
    println!(
        "{:<44} {peak:>12} measured",
        "reading the tokenizer, beyond what is kept"
    );
    assert_eq!(tokenizer.vocab_size() as usize, size);
    holds(
        "a token of the vocabulary",
        entry,
        host::VOCABULARY_ENTRY_BYTES,
        4,
    );

    let size = 64 * MIB;
    let tables = || figure("self", "status", "VmPTE:");
    let mut small = Cpu
        .reserve(Bytes::measured(2 * size), Pages::Small)
        .unwrap();
    // Half of it before: where memory begins between two tables, its ends have one more together.
    let half = usize::try_from(size).unwrap();
    small.commit(0..half).unwrap();
    let before = tables();
    small.commit_all().unwrap();
    small.poison();
    let taken = tables() - before;
    let table = taken * 1024 * MIB / size;
    holds(
        "page tables of 1 GiB",
        table,
        1024 * MIB / host::PAGE_TABLE_SHARE,
        2,
    );
    drop((unsent, kept, tokenizer));
}

fn scored() -> Option<TokenLogprobs> {
    Some(TokenLogprobs {
        logprob: -1.0,
        top: (0..20u8)
            .map(|rank| (rank.into(), f32::from(rank)))
            .collect(),
    })
}

fn start(flags: &[&str]) -> (Served, String) {
    let served = Served::start("tiny-llama", flags);
    let process = served.id().to_string();
    (served, process)
}

/// Anonymous bytes that are no rank's.
fn own(served: &Served) -> u64 {
    let report = served.get_admin("/memory", "").json();
    let rows = report["host"]["accounts"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == "Process").unwrap();
    row["usedBytes"].as_u64().unwrap()
}

/// Requests that the engine has had: running, waiting, and ended.
fn requests(served: &Served) -> u64 {
    const NAMES: [&str; 3] = [
        "vllm:num_requests_running{",
        "vllm:num_requests_waiting{",
        "vllm:request_success_total{",
    ];
    let page = served.get("/metrics").body;
    let counted = page
        .lines()
        .filter(|line| NAMES.iter().any(|name| line.starts_with(name)));
    let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    counted.map(value).sum()
}

#[test]
fn what_the_server_holds_takes_no_more_than_is_reserved() {
    let _alone = alone();
    let (served, process) = start(&[]);
    let files = figure(&process, "status", "RssFile:");
    // The binary's own pages are the larger part of it; a debug binary has more of them.
    holds("the process", own(&served) + files, host::PROCESS_BYTES, 6);

    let many = |command: &Command| {
        let mut many = Command::new(command.get_program());
        let mut is_count = false;
        for arg in command.get_args() {
            many.arg(if is_count { "16".as_ref() } else { arg });
            is_count = arg == "--threads";
        }
        many
    };
    let model = fixture("tiny-llama");
    let flags = ["--tensor-parallel-size", "2"];
    let ranked = Served::start_inside(model.to_str().unwrap(), &flags, many);
    let prompt = "it was the best of times ".repeat(10);
    let body = json!({"prompt": prompt, "max_tokens": 8, "presence_penalty": 1, "n": 4});
    for one in [&served, &ranked] {
        assert_eq!(one.post("/v1/completions", &body.to_string()).status, 200);
    }
    let rank = own(&ranked).saturating_sub(own(&served)) / 2;
    holds("a rank with 16 threads", rank, host::RANK_BYTES, 16);
    drop(ranked);

    const CONNECTIONS: u64 = 200;
    let before = resident(&process);
    let head = format!("GET /livez HTTP/1.1\r\nx: {}", "y".repeat(12_000));
    let idle: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| served::open(served.api, &head))
        .collect();
    let half_open = (settled(&process).saturating_sub(before)) / CONNECTIONS;
    drop(idle);

    // Requests that wait for their first turn.
    let known = requests(&served);
    let before = resident(&process);
    let body = json!({"prompt": "a", "max_tokens": 400, "ignore_eos": true}).to_string();
    let text = post_text("/v1/completions", &body);
    let waiting: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| served::open(served.api, &text))
        .collect();
    let end = Instant::now() + Duration::from_secs(20);
    while requests(&served) < known + CONNECTIONS {
        assert!(Instant::now() < end, "requests do not arrive");
        std::thread::sleep(Duration::from_millis(20));
    }
    let taken = resident(&process).saturating_sub(before) / CONNECTIONS;
    println!("a request that waits, with its connection: {taken}");
    let sequence = u64::from(host::SEQUENCE_ANSWER_BYTES);
    assert!(taken <= sequence + half_open, "{taken} of {sequence}");
    drop(waiting);

    // Clients that ask on and on and read nothing: both directions fill.
    let request = "GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    let before = resident(&process);
    let mut deaf: Vec<TcpStream> = (0..50)
        .map(|_| served::open(served.api, &request))
        .collect();
    for stream in &mut deaf {
        stream
            .set_write_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && stream.write_all(request.as_bytes()).is_ok() {}
    }
    let buffers = (resident(&process).saturating_sub(before)) / 50;
    let (queued, most) = queues(served.api.port());
    println!(
        "a deaf connection: {buffers} in the process, {queued} bytes in its sockets at most {most}"
    );
    println!("a half-open connection: {half_open} in the process");
    let connection = half_open.max(buffers) + most;
    holds("a connection", connection, host::CONNECTION_BYTES, 4);
    drop(deaf);

    // A body of which the last bytes never come, then one of many values.
    let size = 4 * MIB;
    let before = resident(&process);
    let text = post_text(
        "/v1/completions",
        &" ".repeat(usize::try_from(size).unwrap()),
    );
    let held: Vec<TcpStream> = (0..3)
        .map(|_| served::open(served.api, &text[..text.len() - 100]))
        .collect();
    let body = settled(&process).saturating_sub(before) / 3;
    // Its text stands there twice while it is parsed.
    holds("a body of 4 MiB", body, 2 * size, 4);
    drop(held);
}

/// Bytes in the queues of the server's sockets on this port: both directions together, in the mean
/// and at most.
fn queues(port: u16) -> (u64, u64) {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let lines = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own = lines.filter(|line| line[1].ends_with(&format!(":{port:04X}")) && line[3] == "01");
    let bytes: Vec<u64> = own
        .map(|line| {
            let (sent, received) = line[4].split_once(':').unwrap();
            hex(sent) + hex(received)
        })
        .collect();
    let count = bytes.len().max(1) as u64;
    (
        bytes.iter().sum::<u64>() / count,
        bytes.into_iter().max().unwrap_or(0),
    )
}
