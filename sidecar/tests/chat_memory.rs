//! What templates that want all memory get: their process takes its bound and ends, in no time, and
//! this process does not grow. Alone in its binary: it measures its process and its children.
#![allow(clippy::unwrap_used, reason = "a test")]

mod hostile;

use std::fs;

use hostile::{GROWS, confined, hostile, proc_bytes, says};

/// Hundredths of a second of CPU that ended children took.
fn children_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    // cutime and cstime; the first field after the name is the third.
    fields[13].parse::<u64>().unwrap() + fields[14].parse::<u64>().unwrap()
}

#[test]
fn memory_that_a_template_takes_is_bounded_and_the_next_chat_is_rendered() {
    let peak = || proc_bytes("/proc/self/status", "VmHWM:", 1024);
    let mut before = None;
    for (name, what) in GROWS {
        let template = confined(&hostile(what)).unwrap();
        // The first round takes what this process takes anyway.
        let before = *before.get_or_insert_with(peak);
        let ticks = children_ticks();
        let error = template.render(&says("go"), true).unwrap_err().to_string();
        let took = children_ticks() - ticks;
        // One operation that wants too much is told so; what adds up meets the process's bound.
        let told = match name {
            "*" | "format" | "indent" | "batch" | "set block" | "raw text" | "nested lists" => {
                ["more than", "at most", "deeper than", "too deeply"]
            }
            _ => ["more than 64 MiB of memory"; 4],
        };
        assert!(
            told.iter().any(|told| error.contains(told)),
            "{name}: {error}"
        );
        // Time of CPU: how long it takes to get there is the machine's affair.
        assert!(took < 200, "{name}: {took} hundredths of a second");
        assert_eq!(
            template.render(&says("hi"), true).unwrap().text,
            "8",
            "{name}"
        );
        let grown = peak().saturating_sub(before);
        assert!(
            grown < 16 << 20,
            "{name}: {grown} bytes more in this process"
        );
    }
}
