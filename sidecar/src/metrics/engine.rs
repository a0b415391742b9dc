//! Metrics of the engine's loop and of its KV cache, copied from its own figures at scrape.

use prometheus::{Counter, Gauge, GaugeVec, IntCounter, IntGauge, IntGaugeVec};

use super::Maker;
use crate::engine::stats::EngineStats;
use crate::memory::snapshot::KvUsage;

#[derive(Debug)]
pub(super) struct Engine {
    running: IntGauge,
    waiting: IntGauge,
    waiting_by_reason: IntGaugeVec,
    kv_usage: Gauge,
    cache_config: GaugeVec,
    preemptions: IntCounter,
    prefix_queries: IntCounter,
    prefix_hits: IntCounter,
    prompt_tokens: IntCounter,
    generation_tokens: IntCounter,
    steps: IntCounter,
    step_tokens: IntCounter,
    step_seconds: Counter,
    host_seconds: Counter,
    kv_blocks: IntGaugeVec,
    kv_waste: Gauge,
}

impl Engine {
    pub(super) fn new(maker: &mut Maker) -> Engine {
        let running = maker.vllm("num_requests_running", "Sequences that hold KV blocks.");
        let waiting = maker.vllm(
            "num_requests_waiting",
            "Sequences that wait for their turn.",
        );
        let by_reason = maker.vllm(
            "num_requests_waiting_by_reason",
            "Sequences that wait, by reason.",
        );
        let kv_usage = maker.vllm("kv_cache_usage_perc", "Used part of the KV cache, 0 to 1.");
        let config = maker.vllm("cache_config_info", "Geometry of the KV cache; always 1.");
        let preemptions = maker.vllm("num_preemptions_total", "Sequences that lost their blocks.");
        let queries = maker.vllm(
            "prefix_cache_queries_total",
            "Tokens looked up in the prefix cache.",
        );
        let hits = maker.vllm(
            "prefix_cache_hits_total",
            "Tokens found in the prefix cache.",
        );
        let prompt = maker.vllm("prompt_tokens_total", "Prompt tokens processed.");
        let generation = maker.vllm("generation_tokens_total", "Tokens generated.");
        let steps = maker.plimsoll("engine_steps_total", "Steps of the engine's loop.");
        let step_tokens = maker.plimsoll("engine_step_tokens_total", "Tokens computed in steps.");
        let step_seconds = maker.plimsoll("engine_step_seconds_total", "Time spent in steps.");
        let host_seconds = maker.plimsoll(
            "engine_host_seconds_total",
            "Part of the steps in which no rank computed.",
        );
        let blocks = maker.plimsoll("kv_cache_blocks", "Blocks of the KV cache, by state.");
        let waste = maker.plimsoll(
            "kv_cache_waste_ratio",
            "Bytes of used blocks that hold no token over bytes of used blocks, 0 to 1.",
        );
        Engine {
            running: maker.add(IntGauge::with_opts(running)),
            waiting: maker.add(IntGauge::with_opts(waiting)),
            waiting_by_reason: maker.add(IntGaugeVec::new(by_reason, &["reason"])),
            kv_usage: maker.add(Gauge::with_opts(kv_usage)),
            cache_config: maker.add(GaugeVec::new(config, &["block_size", "num_gpu_blocks"])),
            preemptions: maker.add(IntCounter::with_opts(preemptions)),
            prefix_queries: maker.add(IntCounter::with_opts(queries)),
            prefix_hits: maker.add(IntCounter::with_opts(hits)),
            prompt_tokens: maker.add(IntCounter::with_opts(prompt)),
            generation_tokens: maker.add(IntCounter::with_opts(generation)),
            steps: maker.add(IntCounter::with_opts(steps)),
            step_tokens: maker.add(IntCounter::with_opts(step_tokens)),
            step_seconds: maker.add(Counter::with_opts(step_seconds)),
            host_seconds: maker.add(Counter::with_opts(host_seconds)),
            kv_blocks: maker.add(IntGaugeVec::new(blocks, &["state"])),
            kv_waste: maker.add(Gauge::with_opts(waste)),
        }
    }

    pub(super) fn set(&self, stats: &EngineStats, kv: &KvUsage) {
        self.running.set(gauge(stats.running));
        self.waiting.set(gauge(stats.waiting));
        // One queue: whoever waits, waits for room. Nothing is deferred for other reasons.
        self.waiting_by_reason
            .with_label_values(&["capacity"])
            .set(gauge(stats.waiting));
        self.waiting_by_reason
            .with_label_values(&["deferred"])
            .set(0);
        self.kv_usage.set(stats.kv_usage);
        self.cache_config.reset();
        let geometry = [kv.block_size.to_string(), kv.blocks_total.to_string()];
        self.cache_config.with_label_values(&geometry).set(1.0);
        count(&self.preemptions, stats.preemptions);
        count(&self.prefix_queries, stats.prefix_queries);
        count(&self.prefix_hits, stats.prefix_hits);
        count(&self.prompt_tokens, stats.prompt_tokens);
        count(&self.generation_tokens, stats.generation_tokens);
        count(&self.steps, stats.steps);
        count(&self.step_tokens, stats.step_tokens);
        seconds(&self.step_seconds, stats.step_time.as_secs_f64());
        seconds(&self.host_seconds, stats.host_time.as_secs_f64());
        let KvUsage {
            blocks_total,
            blocks_used,
            blocks_cached,
            block_size: _,
            slots_wasted: _,
        } = *kv;
        let free = blocks_total
            .saturating_sub(blocks_used)
            .saturating_sub(blocks_cached);
        for (state, blocks) in [
            ("used", blocks_used),
            ("cached", blocks_cached),
            ("free", free),
        ] {
            self.kv_blocks
                .with_label_values(&[state])
                .set(i64::from(blocks));
        }
        self.kv_waste.set(stats.kv_waste);
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Raises the counter to `total`, which only grows.
fn count(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn seconds(counter: &Counter, total: f64) {
    counter.inc_by((total - counter.get()).max(0.0));
}
