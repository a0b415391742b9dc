//! The command line. Flags and the JSON that the operator writes lead to the same request.

mod adapters;
mod bench;
mod values;
mod wording;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use axum::http::HeaderValue;
use clap::{Args, Parser, Subcommand, ValueEnum};
use plimsoll_kernels::isa::Isa;
use plimsoll_planner::host::CONNECTIONS;
use plimsoll_planner::{Bytes, Limits};

use crate::engine::config::EngineConfig;
use crate::engine::weights::WeightsInForce;

use adapters::MERGE_EXAMPLES;
pub use adapters::{AdapterArgs, MergeArgs};
pub use bench::BenchArgs;
pub(crate) use values::served_name;
pub use values::{
    AdapterFlag, ComputeArg, DtypeArg, GenerationConfig, GroupSizeArg, KvDtypeArg, Output,
    QuantizationArg, RankQuota, ValidationArg,
};
use values::{isa, isa_help, origin, quantity_bytes, rank_quota, share, weight_version};
pub use wording::in_flags;

/// Runs a language model and shows who holds which bytes.
#[derive(Debug, Parser)]
#[command(name = "plimsoll-sidecar", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a model over OpenAI's HTTP API.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Print how a model would be split and what every rank would hold. Needs no cluster.
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(PlanArgs),
    /// Print what a model is, read from its headers alone.
    Inspect(InspectArgs),
    /// Write a model folder with adapters merged into its weights.
    #[command(after_help = MERGE_EXAMPLES)]
    Merge(MergeArgs),
    /// Measure the engine in process, without HTTP: prefill, one sequence, a batch.
    Bench(Box<BenchArgs>),
    /// Print what this machine and this program have to compute with: cores, cards, kernels.
    Devices(DevicesArgs),
    /// Render chats from standard input: `serve` starts it, see `chat::worker`.
    #[command(hide = true)]
    RenderChat,
    /// Print the version.
    Version,
}

const SERVE_EXAMPLES: &str = "\
Examples:
  plimsoll-sidecar serve ./SmolLM2-135M-Instruct.gguf
  plimsoll-sidecar serve ./Qwen2.5-0.5B-Instruct --port 9000 --served-model-name qwen
  plimsoll-sidecar serve ./model --tensor-parallel-size 2 --quota 0=300Mi --quota 1=700Mi
  plimsoll-sidecar serve ./Qwen2.5-0.5B-Instruct --adapter sql=./sql-lora
  plimsoll-sidecar serve ./Qwen2.5-0.5B-Instruct --adapter sql=./sql-lora:dynamic --max-adapters 4
  plimsoll-sidecar serve --config /etc/plimsoll --host 0.0.0.0 \\
      --admin-token-file /etc/plimsoll/admin/token

Then:
  curl http://127.0.0.1:8000/v1/models
  curl http://127.0.0.1:8001/memory

Exit status: 0 after SIGTERM or SIGINT, 1 when the model cannot be served or the engine failed, 4
when operator and sidecar plan differently, 5 when the files are not those that were inspected, 6 when
an adapter is not what its merge came to (--adapter-validation), 64 when the flags make no sense.";

const PLAN_EXAMPLES: &str = "\
Examples:
  plimsoll-sidecar plan ./model --tensor-parallel-size 2 --quota 0=300Mi --quota 1=700Mi
  plimsoll-sidecar plan ./model --memory-limit 4Gi --max-model-len 4096

Exit status: 0 with a plan, 1 when the model cannot be read, 2 when no split fits (the numbers and
remedies are printed), 64 when the flags make no sense.";

#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: a level (error, warn, info, debug, trace) or a tracing filter.
    #[arg(long, global = true, default_value = "info", env = "PLIMSOLL_LOG")]
    pub log_level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// A Hugging Face folder, a GGUF file, or a folder with one GGUF file.
    #[arg(required_unless_present = "config")]
    pub model: Option<PathBuf>,
    /// Take everything about model and memory from boot.json and target.json in this folder (the
    /// operator writes them).
    #[arg(long, value_name = "FOLDER", conflicts_with_all = CONFIG_REPLACES)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub adapters: AdapterArgs,
    /// What is done where merged weights do not answer as model and adapter side by side, row by row, or
    /// rounding leaves hardly anything of the adapter.
    #[arg(long, value_enum, default_value_t = ValidationArg::Enforce)]
    pub adapter_validation: ValidationArg,
    #[command(flatten)]
    pub memory: MemoryArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub http: HttpArgs,
    /// Where a request's temperature, top_k, top_p, min_p and repetition_penalty come from when it
    /// leaves them out. The names are vLLM's.
    #[arg(long, value_enum, default_value_t = GenerationConfig::Auto)]
    pub generation_config: GenerationConfig,
    /// What the weights are called that are loaded first; an update may call its own otherwise.
    #[arg(long, value_name = "TEXT", default_value = WeightsInForce::DEFAULT_VERSION,
          value_parser = weight_version)]
    pub weight_version: String,
    /// On failure, write the last words here too (written to /dev/termination-log where it
    /// exists).
    #[arg(long, value_name = "FILE")]
    pub termination_message: Option<PathBuf>,
}

/// Flags that say what `--config` says.
const CONFIG_REPLACES: [&str; 21] = [
    "model",
    "adapter",
    "adapter_validation",
    "tensor_parallel_size",
    "quota",
    "gpu_memory_utilization",
    "memory_limit",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "kv_cache_dtype",
    "kv_cache_size",
    "cpu_offload",
    "max_adapters",
    "max_rank",
    "block_size",
    "dtype",
    "quantization",
    "quantization_group_size",
    "quantization_compute",
    "served_model_name",
];

#[derive(Clone, Debug, Args)]
pub struct DevicesArgs {
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// A Hugging Face folder, a GGUF file, or a folder with one GGUF file.
    pub model: PathBuf,
    #[command(flatten)]
    pub adapters: AdapterArgs,
    /// Plans room for adapters that come while the server runs, as `serve` does with it.
    #[arg(long, value_name = "FOLDER")]
    pub adapter_root: Vec<PathBuf>,
    #[command(flatten)]
    pub memory: MemoryArgs,
}

/// What the planner is asked. Names and defaults are those of the resource's fields.
#[derive(Clone, Debug, Args)]
pub struct MemoryArgs {
    /// Ranks that hold the model together, 1 to 16.
    #[arg(long, allow_negative_numbers = true, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=16))]
    pub tensor_parallel_size: u32,
    /// What a rank may hold in all, e.g. 0=300Mi or 1=1.5G; for every rank or for none.
    #[arg(long, allow_hyphen_values = true, value_name = "RANK=QUANTITY",
          value_parser = rank_quota)]
    pub quota: Vec<RankQuota>,
    /// Share of --memory-limit that ranks without a quota may use, 0.05 to 1; 0.9 without it.
    #[arg(long, allow_negative_numbers = true, value_name = "SHARE", value_parser = share)]
    pub gpu_memory_utilization: Option<f64>,
    /// Memory of the whole process, e.g. 4Gi; ranks without a quota share what it leaves.
    /// Without it and without quotas: the weights and up to 4Gi of KV cache.
    #[arg(long, allow_hyphen_values = true, value_name = "QUANTITY",
          value_parser = quantity_bytes)]
    pub memory_limit: Option<Bytes>,
    /// Longest sequence in tokens; refused when it does not fit. Without it: the model's own
    /// context, shrunk to fit.
    #[arg(long, allow_negative_numbers = true, value_name = "TOKENS")]
    pub max_model_len: Option<u32>,
    /// Sequences that run at once.
    #[arg(long, allow_negative_numbers = true, value_name = "N",
          default_value_t = Limits::DEFAULT_MAX_NUM_SEQS)]
    pub max_num_seqs: u32,
    /// Tokens computed in one step.
    #[arg(long, allow_negative_numbers = true, value_name = "TOKENS",
          default_value_t = Limits::DEFAULT_MAX_NUM_BATCHED_TOKENS)]
    pub max_num_batched_tokens: u32,
    /// Type of cached keys and values; auto is the type of the weights.
    #[arg(long, value_enum, default_value_t = KvDtypeArg::Auto)]
    pub kv_cache_dtype: KvDtypeArg,
    /// Most bytes of KV cache on each rank, e.g. 256Mi. Without it: all that is left.
    #[arg(long, allow_hyphen_values = true, value_name = "QUANTITY",
          value_parser = quantity_bytes)]
    pub kv_cache_size: Option<Bytes>,
    /// Most bytes of weights that each rank keeps in host memory and streams, e.g. 2Gi; without it none.
    #[arg(long, allow_hyphen_values = true, value_name = "QUANTITY",
          value_parser = quantity_bytes)]
    pub cpu_offload: Option<Bytes>,
    /// Dynamic adapters that there is room for at once, 0 to 256. Without it: as many as are given, and
    /// at least 4 with --adapter-root.
    #[arg(long, allow_negative_numbers = true, value_name = "N", visible_alias = "max-loras",
          value_parser = clap::value_parser!(u32).range(0..=256))]
    pub max_adapters: Option<u32>,
    /// Largest rank of a dynamic adapter, 1 to 4096. Without it: the largest that is given, and at least
    /// 16 where there is room for others.
    #[arg(long, allow_negative_numbers = true, value_name = "N", visible_alias = "max-lora-rank",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_rank: Option<u32>,
    /// Tokens of one KV block.
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "TOKENS",
        default_value_t = 16
    )]
    pub block_size: u32,
    /// Type of the weights in memory, of activations, and of exact products of weights in 2 to 8 bits;
    /// auto is the file's own (bfloat16 for quantised files).
    #[arg(long, value_enum, default_value_t = DtypeArg::Auto)]
    pub dtype: DtypeArg,
    /// In how many bits weights are kept.
    #[arg(long, value_enum, default_value_t = QuantizationArg::Auto)]
    pub quantization: QuantizationArg,
    /// Numbers of a row that share a scale where int4 rounds; without it 32. 128 takes 4.25 bits a number, not
    /// 4.5, and answers are a little further off.
    #[arg(long, value_enum, value_name = "NUMBERS")]
    pub quantization_group_size: Option<GroupSizeArg>,
    /// How those in 2 to 8 bits are multiplied.
    #[arg(long, value_enum, default_value_t = ComputeArg::Auto)]
    pub quantization_compute: ComputeArg,
}

#[derive(Clone, Debug, Args)]
pub struct EngineArgs {
    /// Names that requests may call the model by; repeat for more. Without it: the file's name.
    #[arg(long, value_name = "NAME", value_parser = served_name)]
    pub served_model_name: Vec<String>,
    #[arg(long, value_name = "ISA", value_parser = isa, help = isa_help())]
    pub isa: Option<Isa>,
    /// Threads of each rank. Without it: the CPUs this process may use, divided by the ranks.
    #[arg(long, allow_negative_numbers = true, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Requests that may wait; one more is answered with 429.
    #[arg(long, allow_negative_numbers = true, value_name = "N",
          default_value_t = EngineConfig::DEFAULT_MAX_WAITING)]
    pub max_waiting: usize,
    /// Compute every prompt anew, even where its beginning is cached.
    #[arg(long)]
    pub no_prefix_cache: bool,
}

#[derive(Clone, Debug, Args)]
pub struct HttpArgs {
    /// Address of all ports. Anything but a loopback address needs --admin-token-file.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
    /// Port of the OpenAI API; it answers probes and metrics too, while it has room for them. 0
    /// picks a free one.
    #[arg(long, allow_negative_numbers = true, default_value_t = 8000)]
    pub port: u16,
    /// Port of the admin API (/memory, /memory/watch, /weight_checker, and control: /sleep, /wake_up,
    /// /pause and others); 0 picks a free one.
    #[arg(long, allow_negative_numbers = true, default_value_t = 8001)]
    pub admin_port: u16,
    /// Port of probes and metrics (/livez, /readyz, /health, /metrics), which answers whatever the
    /// API's clients do; 0 picks a free one.
    #[arg(long, allow_negative_numbers = true, default_value_t = 8002)]
    pub probe_port: u16,
    /// Origins whose pages may call the API from a browser, e.g. https://chat.example.org; repeat
    /// for more, `*` is any. Without it: none, and browsers keep pages away.
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    pub cors_allow_origin: Vec<HeaderValue>,
    /// File with the bearer token that the admin API wants, 16 characters or more; one that is replaced
    /// while the server runs counts from then on.
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// Who controls the engine (sleep, wake, pause) without a token: nobody, or clients on 127.0.0.1
    /// and ::1, on the API port. Behind a proxy on this machine, leave it off.
    #[arg(long, value_enum, default_value_t = ControlApi::Off)]
    pub control_api: ControlApi,
    /// Folder under which other weights may lie that replace those in force while the server runs
    /// (/update_weights, /update_weights_from_disk); repeat for more. Without it: none are read.
    #[arg(long, value_name = "FOLDER")]
    pub weights_root: Vec<PathBuf>,
    /// Folder under which adapters may lie that are loaded while the server runs
    /// (/v1/load_lora_adapter); repeat for more. Room for 4 is planned, or for --max-adapters of
    /// --max-rank. Without it: none are.
    #[arg(long, value_name = "FOLDER")]
    pub adapter_root: Vec<PathBuf>,
    /// Largest request body, e.g. 4Mi.
    #[arg(long, allow_hyphen_values = true, value_name = "QUANTITY", default_value = "4Mi",
          value_parser = quantity_bytes)]
    pub max_body_size: Bytes,
    /// Connections of the API port. One more takes the place of one that is idle.
    #[arg(long, allow_negative_numbers = true, value_name = "N", default_value_t = CONNECTIONS,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_connections: u32,
    /// Seconds that running requests get after SIGTERM.
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "SECONDS",
        default_value_t = 50
    )]
    pub drain_timeout: u64,
}

/// Control routes without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ControlApi {
    Off,
    Loopback,
}

impl HttpArgs {
    /// # Errors
    /// Which two ports are one, or which folder is none.
    pub fn check(&self) -> Result<(), String> {
        let weights = self.weights_root.iter();
        let weights = weights.map(|root| ("--weights-root", "new weights", root));
        let adapters = self.adapter_root.iter();
        let adapters = adapters.map(|root| ("--adapter-root", "adapters", root));
        for (flag, what, root) in weights.chain(adapters) {
            let found = std::fs::metadata(root);
            let why = match found {
                Ok(found) if found.is_dir() => continue,
                Ok(_) => "is no folder".to_owned(),
                Err(error) => error.to_string(),
            };
            return Err(format!(
                "{flag}: {}: {why}; name the folder under which {what} will lie",
                root.display()
            ));
        }
        let ports = [
            ("--port", self.port),
            ("--admin-port", self.admin_port),
            ("--probe-port", self.probe_port),
        ];
        for (at, (flag, port)) in ports.iter().enumerate() {
            let mut others = ports[..at].iter();
            // 0 is any free one.
            let same = others.find(|(_, other)| other == port && *port != 0);
            if let Some((other, _)) = same {
                return Err(format!(
                    "{flag}: {port} is the port of {other} already; give each its own (0 picks a \
                     free one)"
                ));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// A Hugging Face folder, a GGUF file, or a folder with one GGUF file.
    pub model: PathBuf,
    #[command(flatten)]
    pub adapters: AdapterArgs,
    /// Write the answer (facts or error, as JSON of at most 4,096 bytes) here too.
    #[arg(long, value_name = "FILE")]
    pub termination_message: Option<PathBuf>,
    /// What is printed.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}
