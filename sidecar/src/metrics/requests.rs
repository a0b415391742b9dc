//! Metrics of requests, observed when a sequence's end is known.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounterVec};

use super::Maker;
use crate::engine::request::Timings;

/// One sequence that came to its end.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// `stop`, `length`, `abort` or `error`.
    pub reason: &'static str,
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    pub completion_tokens: u32,
    pub max_tokens: u32,
    pub timings: Timings,
}

/// Bucket edges are vLLM's, in seconds, so that its dashboards and rules read ours.
const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const PER_TOKEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const LATENCY: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
/// 1, 2, 5 and their decades.
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0,
    50000.0, 100_000.0, 200_000.0,
];
const CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

#[derive(Debug)]
pub(super) struct Requests {
    success: IntCounterVec,
    refused: IntCounterVec,
    cached: prometheus::IntCounter,
    by_source: IntCounterVec,
    time_to_first_token: Histogram,
    inter_token: Histogram,
    per_output_token: Histogram,
    latency: Histogram,
    queue: Histogram,
    inference: Histogram,
    prefill: Histogram,
    decode: Histogram,
    prompt_tokens: Histogram,
    generation_tokens: Histogram,
    max_generation_tokens: Histogram,
    params_n: Histogram,
    params_max_tokens: Histogram,
}

impl Requests {
    pub(super) fn new(maker: &mut Maker) -> Requests {
        let mut histogram = |name: &str, help: &str, buckets: &[f64]| {
            let opts = HistogramOpts::from(maker.vllm(name, help)).buckets(buckets.to_vec());
            maker.add(Histogram::with_opts(opts))
        };
        let time_to_first_token = histogram(
            "time_to_first_token_seconds",
            "Submit to first token.",
            FIRST_TOKEN,
        );
        let inter_token = histogram(
            "inter_token_latency_seconds",
            "Between two tokens.",
            PER_TOKEN,
        );
        let per_output_token = histogram(
            "request_time_per_output_token_seconds",
            "Decode time of a request over its tokens after the first.",
            PER_TOKEN,
        );
        let latency = histogram("e2e_request_latency_seconds", "Submit to end.", LATENCY);
        let queue = histogram(
            "request_queue_time_seconds",
            "Submit to first computation.",
            LATENCY,
        );
        let inference = histogram(
            "request_inference_time_seconds",
            "First computation to end.",
            LATENCY,
        );
        let prefill = histogram(
            "request_prefill_time_seconds",
            "First computation to first token.",
            LATENCY,
        );
        let decode = histogram(
            "request_decode_time_seconds",
            "First token to last token.",
            LATENCY,
        );
        let prompt_tokens = histogram("request_prompt_tokens", "Tokens of the prompt.", TOKENS);
        let generation_tokens = histogram("request_generation_tokens", "Tokens generated.", TOKENS);
        let max_generation_tokens = histogram(
            "request_max_num_generation_tokens",
            "Most tokens the request could generate.",
            TOKENS,
        );
        let params_n = histogram("request_params_n", "Parameter n.", CHOICES);
        let params_max_tokens =
            histogram("request_params_max_tokens", "Parameter max_tokens.", TOKENS);
        let success = maker.add(IntCounterVec::new(
            maker.vllm("request_success_total", "Requests that ended, by reason."),
            &["finished_reason"],
        ));
        for reason in ["stop", "length", "abort", "error"] {
            success.with_label_values(&[reason]);
        }
        let refused = maker.add(IntCounterVec::new(
            maker.plimsoll(
                "requests_refused_total",
                "Requests answered with an error, by HTTP status.",
            ),
            &["status"],
        ));
        let cached = maker.add(prometheus::IntCounter::with_opts(maker.vllm(
            "prompt_tokens_cached_total",
            "Prompt tokens found in the prefix cache.",
        )));
        let by_source = maker.add(IntCounterVec::new(
            maker.vllm(
                "prompt_tokens_by_source_total",
                "Prompt tokens, by where they came from.",
            ),
            &["source"],
        ));
        Requests {
            success,
            refused,
            cached,
            by_source,
            time_to_first_token,
            inter_token,
            per_output_token,
            latency,
            queue,
            inference,
            prefill,
            decode,
            prompt_tokens,
            generation_tokens,
            max_generation_tokens,
            params_n,
            params_max_tokens,
        }
    }

    pub(super) fn accepted(&self, n: u32, max_tokens: Option<u32>) {
        self.params_n.observe(f64::from(n));
        if let Some(max_tokens) = max_tokens {
            self.params_max_tokens.observe(f64::from(max_tokens));
        }
    }

    pub(super) fn inter_token(&self, time: Duration) {
        self.inter_token.observe(time.as_secs_f64());
    }

    pub(super) fn finished(&self, sequence: &Sequence) {
        let Sequence {
            reason,
            prompt_tokens,
            cached_tokens,
            completion_tokens,
            max_tokens,
            timings:
                Timings {
                    queue,
                    prefill,
                    decode,
                    first_token,
                    total,
                },
        } = sequence;
        self.success.with_label_values(&[*reason]).inc();
        self.cached.inc_by(u64::from(*cached_tokens));
        let source = |name: &str, tokens: u32| {
            self.by_source
                .with_label_values(&[name])
                .inc_by(u64::from(tokens));
        };
        source("local_cache_hit", *cached_tokens);
        source(
            "local_compute",
            prompt_tokens.saturating_sub(*cached_tokens),
        );
        self.prompt_tokens.observe(f64::from(*prompt_tokens));
        self.generation_tokens
            .observe(f64::from(*completion_tokens));
        self.max_generation_tokens.observe(f64::from(*max_tokens));
        self.latency.observe(total.as_secs_f64());
        self.queue.observe(queue.as_secs_f64());
        // A sequence that never computed anything has no such times.
        let Some(first_token) = first_token else {
            return;
        };
        self.time_to_first_token.observe(first_token.as_secs_f64());
        self.prefill.observe(prefill.as_secs_f64());
        self.decode.observe(decode.as_secs_f64());
        self.inference.observe((*prefill + *decode).as_secs_f64());
        if *completion_tokens > 1 {
            let tokens = f64::from(completion_tokens - 1);
            self.per_output_token.observe(decode.as_secs_f64() / tokens);
        }
    }

    pub(super) fn lost(&self) {
        self.success.with_label_values(&["abort"]).inc();
    }

    pub(super) fn refused(&self, status: &str) {
        self.refused.with_label_values(&[status]).inc();
    }
}
