//! A planner's words for whoever asked with flags: the planner names the fields of the resource.

/// Fields with their flags; what begins with another stands before it.
const FLAGS: [(&str, &str); 30] = [
    (
        "spec.parallelism.tensorParallelSize",
        "--tensor-parallel-size",
    ),
    (
        "spec.memory.gpuMemoryUtilization",
        "--gpu-memory-utilization",
    ),
    ("spec.memory.gpuQuotas limits", "--quota limits"),
    ("spec.memory.gpuQuotas[rank=", "--quota of rank "),
    ("spec.memory.kvCache.blockSize", "--block-size"),
    ("spec.memory.kvCache.size", "--kv-cache-size"),
    (
        "spec.memory.kvCache.dtype Float32",
        "--kv-cache-dtype float32",
    ),
    (
        "spec.memory.kvCache.dtype BFloat16",
        "--kv-cache-dtype bfloat16",
    ),
    (
        "spec.memory.kvCache.dtype Float16",
        "--kv-cache-dtype float16",
    ),
    ("spec.memory.kvCache.dtype Int8", "--kv-cache-dtype int8"),
    ("spec.memory.kvCache.dtype", "--kv-cache-dtype"),
    ("spec.memory.cpuOffload", "--cpu-offload"),
    (
        "spec.limits.maxNumBatchedTokens",
        "--max-num-batched-tokens",
    ),
    ("spec.limits.maxAdapterRank", "--max-rank"),
    ("spec.limits.maxAdapters", "--max-adapters"),
    ("spec.limits.maxNumSeqs", "--max-num-seqs"),
    ("spec.limits.maxModelLen", "--max-model-len"),
    ("spec.model.dtype Float32", "--dtype float32"),
    ("spec.model.dtype BFloat16", "--dtype bfloat16"),
    ("spec.model.dtype Float16", "--dtype float16"),
    ("spec.model.dtype", "--dtype"),
    (
        "None in spec.model.quantization.mode",
        "none in --quantization",
    ),
    ("spec.model.quantization.mode: None", "--quantization none"),
    ("spec.model.quantization.mode Int8", "--quantization int8"),
    (
        "spec.model.quantization.mode Int4 with groupSize 128",
        "--quantization int4 --quantization-group-size 128",
    ),
    ("spec.model.quantization.mode Int4", "--quantization int4"),
    (
        "spec.model.quantization.groupSize",
        "--quantization-group-size",
    ),
    ("(mode Int8 makes some)", "(--quantization int8 makes some)"),
    ("spec.model.quantization.mode", "--quantization"),
    (
        "spec.model.quantization.computeDtype",
        "--quantization-compute",
    ),
];

/// The same with flags in the place of fields.
pub fn in_flags(text: &str) -> String {
    let text = FLAGS.iter().fold(text.to_owned(), |text, (field, flag)| {
        text.replace(field, flag)
    });
    let text = text.replace("].limit", "");
    let text = text.replace("; write Auto", "; write auto");
    text.replace(plimsoll_planner::MEMORY_LIMIT, "--memory-limit")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use plimsoll_planner::{Bytes, Dtype, KvDtype, Quantization, Remedy, Utilization};

    use super::*;
    use crate::args::Cli;

    /// Each field that the planner names, by its own words or in its sources.
    #[test]
    fn every_field_that_a_refusal_names_has_a_flag_that_serve_and_plan_take() {
        let bytes = Bytes::measured(1 << 30);
        let all = Remedy::All(vec![
            Remedy::MaxModelLen { tokens: 1 },
            Remedy::KvCacheSize { bytes },
            Remedy::Quota { rank: 3, bytes },
            Remedy::Quotas { bytes: vec![bytes] },
            Remedy::Utilization {
                utilization: Utilization(900),
            },
            Remedy::ModelDtype {
                dtype: Dtype::BFloat16,
            },
            Remedy::KvDtype {
                dtype: KvDtype::Int8,
            },
            Remedy::Quantization {
                mode: Quantization::Int4,
            },
            Remedy::Quantization {
                mode: Quantization::Int4By128,
            },
            Remedy::CpuOffload { bytes },
            Remedy::BatchedTokens { tokens: 1 },
            Remedy::Sequences { sequences: 1 },
            Remedy::Adapters { slots: 1 },
            Remedy::AdapterRank { rank: 1 },
            Remedy::TensorParallelSize { ranks: 2 },
            Remedy::MemoryLimit { bytes },
        ]);
        let sources = concat!(
            include_str!("../../../planner/src/check.rs"),
            include_str!("../../../planner/src/message.rs"),
            include_str!("../../../planner/src/refit/mod.rs"),
        );
        let sources = sources.lines().filter(|line| !line.contains("//"));
        let sources: Vec<&str> = sources.collect();
        let told = in_flags(&(all.to_string() + &sources.join("\n")));
        assert!(!told.contains("spec."), "{told}");
        let told = in_flags(&all.to_string());
        for says in [
            "--quota of rank 3 at least 1Gi",
            "--dtype bfloat16",
            "--quantization int4",
            "--quantization int4 --quantization-group-size 128",
            "--kv-cache-dtype int8",
            "--memory-limit at least",
        ] {
            assert!(told.contains(says), "no {says} in {told}");
        }
        let command = Cli::command();
        for name in ["plan", "serve"] {
            let command = command.find_subcommand(name).unwrap();
            for (_, flag) in FLAGS {
                let flag = flag.split("--").nth(1).unwrap().split(' ').next();
                let mut flags = command.get_arguments().filter_map(clap::Arg::get_long);
                assert!(flags.any(|of| Some(of) == flag), "{name} has no {flag:?}");
            }
        }
    }
}
