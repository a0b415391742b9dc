//! The names and labels that dashboards read, rendered.

use super::*;
use crate::engine::dynamic::AdapterInSlot;
use crate::engine::handle::EngineState;
use crate::engine::request::Timings;
use crate::engine::rest::{Cause, RestView, SleepLevel, Transition, TransitionCounts};
use crate::report::{HostReader, Identity, build, tests::view};
use plimsoll_crds::v1alpha1::engine::Backend;
use plimsoll_crds::v1alpha1::report::AdapterReport;
use plimsoll_planner::{AdapterSlots, Bytes};

const SLEEP_SECONDS: &str = "vllm:sleep_mode_operation_duration_seconds";

fn rendered() -> String {
    let metrics = Metrics::new("tiny");
    metrics.accepted(2, Some(16));
    metrics.inter_token(Duration::from_millis(20));
    metrics.refused("429");
    metrics.finished(&Sequence {
        reason: "stop",
        prompt_tokens: 10,
        cached_tokens: 4,
        completion_tokens: 3,
        max_tokens: 16,
        timings: Timings {
            queue: Duration::from_millis(1),
            prefill: Duration::from_millis(2),
            decode: Duration::from_millis(40),
            first_token: Some(Duration::from_millis(3)),
            total: Duration::from_millis(43),
        },
    });
    metrics.lost();
    let identity = Identity {
        revision: "r".into(),
        backend: Backend::Cpu,
        target: Default::default(),
    };
    let mut view = view(EngineState::Serving);
    view.ledger.ranks[0].other = -4;
    let mut stats = EngineStats {
        running: 3,
        waiting: 1,
        preemptions: 7,
        adapted: vec![[1, 0], [2, 1], [0, 0]],
        ..EngineStats::default()
    };
    for tokens in [1, 4, 2048, 20_000] {
        stats.count_step(tokens, Duration::from_millis(9), Duration::from_millis(8));
    }
    stats.transitions[Transition::Wake as usize] = TransitionCounts {
        taken_bytes: 700,
        ..TransitionCounts::default()
    };
    for (done, seconds) in [(true, 0.02), (false, 3.0), (true, 1000.0)] {
        let time = Duration::from_secs_f64(seconds);
        stats.transitions[Transition::Wake as usize].count(done, time, Cause::Idle);
    }
    let engine = Some(EngineFigures {
        stats,
        kv: view.ledger.kv,
        rest: RestView {
            level: Some(SleepLevel::Two),
            ..RestView::default()
        },
        dynamic: in_slots(),
    });
    let mut report = build(&identity, || Some(view), false, &HostReader::new());
    report.adapters.push(AdapterReport {
        name: "sql".to_owned(),
        changed_per_million: 981_250,
        norm_ratio_per_million: 1_000_500,
        lost_per_million: 40_000,
        answers_apart_per_million: Some(2_000),
        ..AdapterReport::default()
    });
    metrics.render(&Scrape {
        report: report.clone(),
        engine: engine.clone(),
    });
    // Counters copied at scrape must not double with the second one.
    metrics.render(&Scrape { report, engine })
}

#[test]
fn names_labels_and_values_are_those_that_dashboards_read() {
    let text = rendered();
    let vllm = r#"{engine="0",model_name="tiny""#;
    for line in [
        format!("vllm:num_requests_running{vllm}}} 3"),
        format!("vllm:num_requests_waiting{vllm}}} 1"),
        format!("vllm:num_requests_waiting_by_reason{vllm},reason=\"capacity\"}} 1"),
        format!("vllm:num_preemptions_total{vllm}}} 7"),
        "vllm:request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"tiny\"} 1"
            .into(),
        "vllm:request_success_total{engine=\"0\",finished_reason=\"abort\",model_name=\"tiny\"} 1"
            .into(),
        format!("vllm:prompt_tokens_cached_total{vllm}}} 4"),
        format!("vllm:prompt_tokens_by_source_total{vllm},source=\"local_compute\"}} 6"),
        format!("vllm:time_to_first_token_seconds_bucket{vllm},le=\"0.005\"}} 1"),
        format!("vllm:iteration_tokens_total_bucket{vllm},le=\"1\"}} 1"),
        format!("vllm:engine_sleep_state{vllm},sleep_state=\"discard_all\"}} 1"),
        format!("vllm:engine_sleep_state{vllm},sleep_state=\"awake\"}} 0"),
        format!("{SLEEP_SECONDS}_bucket{vllm},operation=\"wake\",le=\"0.05\"}} 1"),
        format!("{SLEEP_SECONDS}_bucket{vllm},operation=\"wake\",le=\"600\"}} 2"),
        format!("{SLEEP_SECONDS}_count{vllm},operation=\"wake\"}} 3"),
        format!("{SLEEP_SECONDS}_count{vllm},operation=\"sleep\"}} 0"),
        "plimsoll_transition_total{kind=\"wake\",model_name=\"tiny\",result=\"failed\"} 1".into(),
        r#"plimsoll_transition_reason_total{kind="wake",model_name="tiny",reason="idle"} 3"#.into(),
        "plimsoll_transition_bytes_total{direction=\"taken\",kind=\"wake\",model_name=\"tiny\"} 700"
            .into(),
        format!("vllm:iteration_tokens_total_bucket{vllm},le=\"8\"}} 2"),
        format!("vllm:iteration_tokens_total_bucket{vllm},le=\"1024\"}} 2"),
        format!("vllm:iteration_tokens_total_bucket{vllm},le=\"16384\"}} 3"),
        format!("vllm:iteration_tokens_total_bucket{vllm},le=\"+Inf\"}} 4"),
        format!("vllm:iteration_tokens_total_sum{vllm}}} 22053"),
        format!("vllm:iteration_tokens_total_count{vllm}}} 4"),
        format!("vllm:inter_token_latency_seconds_bucket{vllm},le=\"0.025\"}} 1"),
        format!("vllm:e2e_request_latency_seconds_count{vllm}}} 1"),
        format!("vllm:request_time_per_output_token_seconds_sum{vllm}}} 0.02"),
        "plimsoll_gpu_memory_bytes{gpu=\"0\",kind=\"weights\",model_name=\"tiny\"} 600".into(),
        "plimsoll_gpu_memory_used_bytes{gpu=\"0\",kind=\"kv_cache\",model_name=\"tiny\"} 150"
            .into(),
        "plimsoll_gpu_memory_quota_bytes{gpu=\"0\",model_name=\"tiny\"} 1000".into(),
        "plimsoll_gpu_memory_driver_bytes{gpu=\"0\",model_name=\"tiny\"} 904".into(),
        "plimsoll_gpu_memory_other_bytes{gpu=\"0\",model_name=\"tiny\"} -4".into(),
        "plimsoll_engine_state{model_name=\"tiny\",state=\"serving\"} 1".into(),
        r#"plimsoll_adapter_changed_ratio{adapter="sql",model_name="tiny"} 0.98125"#.into(),
        r#"plimsoll_adapter_norm_ratio{adapter="sql",model_name="tiny"} 1.0005"#.into(),
        r#"plimsoll_adapter_lost_ratio{adapter="sql",model_name="tiny"} 0.04"#.into(),
        r#"plimsoll_adapter_answers_apart_ratio{adapter="sql",model_name="tiny"} 0.002"#.into(),
        "plimsoll_requests_refused_total{model_name=\"tiny\",status=\"429\"} 1".into(),
    ] {
        assert!(
            text.lines().any(|have| have == line),
            "{line} is not in\n{text}"
        );
    }
}

/// Renaming or dropping one breaks somebody's dashboard: this list only grows.
#[test]
fn the_families_are_these() {
    let text = rendered();
    let mut families: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    families.sort_unstable();
    let expected = "plimsoll_adapter_answers_apart_ratio plimsoll_adapter_bytes plimsoll_adapter_changed_ratio plimsoll_adapter_lost_ratio \
        plimsoll_adapter_norm_ratio plimsoll_engine_host_seconds_total plimsoll_engine_state \
        plimsoll_engine_step_seconds_total plimsoll_engine_step_tokens_total \
        plimsoll_engine_steps_total plimsoll_gpu_memory_budget_bytes plimsoll_gpu_memory_bytes \
        plimsoll_gpu_memory_driver_bytes plimsoll_gpu_memory_high_water_bytes \
        plimsoll_gpu_memory_other_bytes plimsoll_gpu_memory_planned_bytes \
        plimsoll_gpu_memory_quota_bytes plimsoll_gpu_memory_used_bytes plimsoll_host_memory_bytes \
        plimsoll_host_memory_cgroup_bytes plimsoll_host_memory_other_bytes \
        plimsoll_kv_cache_blocks plimsoll_kv_cache_waste_ratio plimsoll_kv_cache_wasted_bytes \
        plimsoll_load_done_bytes plimsoll_load_total_bytes plimsoll_requests_refused_total \
        plimsoll_transition_bytes_total plimsoll_transition_reason_total \
        plimsoll_transition_seconds_total plimsoll_transition_total vllm:cache_config_info vllm:e2e_request_latency_seconds \
        vllm:engine_sleep_state vllm:generation_tokens_total \
        vllm:inter_token_latency_seconds vllm:iteration_tokens_total vllm:kv_cache_usage_perc vllm:lora_requests_info vllm:num_preemptions_total \
        vllm:num_requests_running vllm:num_requests_waiting vllm:num_requests_waiting_by_reason \
        vllm:prefix_cache_hits_total vllm:prefix_cache_queries_total \
        vllm:prompt_tokens_by_source_total vllm:prompt_tokens_cached_total \
        vllm:prompt_tokens_total vllm:request_decode_time_seconds \
        vllm:request_generation_tokens vllm:request_inference_time_seconds \
        vllm:request_max_num_generation_tokens vllm:request_params_max_tokens \
        vllm:request_params_n vllm:request_prefill_time_seconds vllm:request_prompt_tokens \
        vllm:request_queue_time_seconds vllm:request_success_total \
        vllm:request_time_per_output_token_seconds \
        vllm:rl_weight_update_operation_duration_seconds \
        vllm:rl_weight_update_operations_in_flight \
        vllm:sleep_mode_operation_duration_seconds vllm:sleep_mode_operations_in_flight \
        vllm:time_to_first_token_seconds";
    let expected: Vec<&str> = expected.split_whitespace().collect();
    let families: Vec<&str> = families
        .into_iter()
        .filter(|name| *name != "plimsoll_host_memory_limit_bytes")
        .collect();
    assert_eq!(families, expected);
}

fn in_slots() -> AdaptersInSlots {
    let of = |(slot, name): (u32, &str)| AdapterInSlot {
        scale: plimsoll_crds::v1alpha1::adapters::AdapterScale::ONE,
        name: name.to_owned(),
        path: "/a".into(),
        digest: String::new(),
        rank: 8,
        matrices: 14,
        slot,
        load: 1,
        leaving: false,
        answers_change: None,
    };
    AdaptersInSlots {
        room: AdapterSlots { slots: 3, rank: 8 },
        slot_bytes: Bytes::measured(700),
        adapters: (0..).zip(["a", "b", "idle"]).map(of).collect(),
    }
}

#[test]
fn adapters_by_request_are_one_series_of_names_and_a_figure_each() {
    let text = rendered();
    let labels = "max_lora=\"3\",model_name=\"tiny\",running_lora_adapters=\"a,b\",waiting_lora_adapters=\"b\"";
    let line = text
        .lines()
        .find(|line| line.starts_with("vllm:lora_requests_info{"));
    assert!(line.is_some_and(|line| line.contains(labels)), "{line:?}");
    assert!(
        text.contains("plimsoll_adapter_bytes{adapter=\"idle\",model_name=\"tiny\"} 700"),
        "{text}"
    );
}
