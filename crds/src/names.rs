//! Names that the operator, the sidecar and the tests must agree on: labels, ports, containers,
//! mount paths. A name that only one crate uses stays in that crate.

/// API group of the resource, and prefix of every label and annotation.
pub const GROUP: &str = "plimsoll.dev";
/// API version of the resource.
pub const VERSION: &str = "v1alpha1";
/// Kind of the resource.
pub const KIND: &str = "InferenceDeployment";
/// Plural, as in URLs and RBAC rules.
pub const PLURAL: &str = "inferencedeployments";
/// Name of the CustomResourceDefinition.
pub const CRD_NAME: &str = "inferencedeployments.plimsoll.dev";

/// On everything made for a resource: the resource's name.
pub const LABEL_DEPLOYMENT: &str = "plimsoll.dev/inferencedeployment";
/// On ReplicaSets and engine pods: the revision they belong to.
pub const LABEL_REVISION: &str = "plimsoll.dev/revision";
/// On pods: what the pod is for (`engine` or `inspect`).
pub const LABEL_ROLE: &str = "plimsoll.dev/role";
/// Value of [`LABEL_ROLE`] on pods that serve.
pub const ROLE_ENGINE: &str = "engine";
/// Value of [`LABEL_ROLE`] on pods that read a model's facts.
pub const ROLE_INSPECT: &str = "inspect";
/// Stage of loading in which a container waits for a higher memory limit: its engine takes targets.
pub const STAGE_WAITS_FOR_LIMIT: &str = "WaitingForMemoryLimit";
/// Query of `/health`: 503 while a part of the KV cache is still being taken. Engines that do not know it
/// have it whole.
pub const HEALTH_WHOLE: &str = "memory=whole";
/// Standard label: who manages the object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`], and field manager of server-side apply for children.
pub const MANAGER: &str = "plimsoll-operator";
/// Field manager of server-side apply for status.
pub const STATUS_MANAGER: &str = "plimsoll-operator-status";
/// Standard label: the application.
pub const LABEL_APP: &str = "app.kubernetes.io/name";
/// Value of [`LABEL_APP`] on engine pods.
pub const APP_ENGINE: &str = "plimsoll-engine";
/// Label that endpoint pickers read to choose a metric vocabulary.
pub const LABEL_ENGINE_TYPE: &str = "llm-d.ai/engine-type";
/// Value of [`LABEL_ENGINE_TYPE`]: the sidecar speaks vLLM's metric names.
pub const ENGINE_TYPE: &str = "vllm";

/// Name of the engine's container.
pub const CONTAINER_ENGINE: &str = "engine";
/// Name of the inspect pod's container.
pub const CONTAINER_INSPECT: &str = "inspect";

/// Port of the OpenAI API.
pub const PORT_HTTP: u16 = 8000;
/// Name of [`PORT_HTTP`] in containers and Services.
pub const PORT_HTTP_NAME: &str = "http";
/// Port of the admin API (bearer token).
pub const PORT_ADMIN: u16 = 8001;
/// Name of [`PORT_ADMIN`] in containers and Services.
pub const PORT_ADMIN_NAME: &str = "admin";
/// Port of probes and metrics: whatever the API's clients do, this one answers.
pub const PORT_PROBES: u16 = 8002;
/// Name of [`PORT_PROBES`] in containers.
pub const PORT_PROBES_NAME: &str = "probes";

/// Folder of an engine's documents (a ConfigMap) and of its admin token.
pub const CONFIG_DIR: &str = "/etc/plimsoll";
/// What an engine is started with: key in the ConfigMap, and file in [`CONFIG_DIR`].
pub const BOOT_KEY: &str = "boot.json";
/// What an engine is told: key in the ConfigMap, and file in [`CONFIG_DIR`].
pub const TARGET_KEY: &str = "target.json";
/// Key of the admin token in its Secret.
pub const ADMIN_TOKEN_KEY: &str = "token";
/// Path of the admin token in the container.
pub const ADMIN_TOKEN_PATH: &str = "/etc/plimsoll/admin/token";
/// Where a model source is mounted, read-only.
pub const MODEL_DIR: &str = "/models";
/// Volume of the model source.
pub const VOLUME_MODEL: &str = "plimsoll-model";
/// Where adapters are mounted, read-only, each in a folder of its name.
pub const ADAPTERS_DIR: &str = "/adapters";
/// Volumes of adapters begin so; their number in `spec.adapters` follows.
pub const VOLUME_ADAPTER: &str = "plimsoll-adapter-";
/// Where sources of adapters that engines load are mounted, read-only, each in a folder of its hash.
pub const DYNAMIC_ADAPTERS_DIR: &str = "/dynamic-adapters";
/// Their volumes begin so; the hash follows.
pub const VOLUME_ADAPTERS: &str = "plimsoll-adapters-";
/// Where an inspect pod leaves its answer (at most [`TERMINATION_MESSAGE_BYTES`]).
pub const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";
/// What Kubernetes keeps of a termination message.
pub const TERMINATION_MESSAGE_BYTES: usize = 4096;

/// The engine's exit code when its own plan is another than that in its configuration.
pub const EXIT_PLAN_DIFFERS: u8 = 4;
/// The engine's exit code when the model's files are other ones than it was configured for.
pub const EXIT_OTHER_FILES: u8 = 5;
/// The engine's exit code when weights that it read are not what their adapters mean.
pub const EXIT_ADAPTER_REFUSED: u8 = 6;

/// User and group of every process of ours.
pub const RUN_AS: i64 = 65532;

/// Characters of a resource's name: with a suffix of 11 it names a ReplicaSet, whose pods carry that
/// name in a label of at most 63.
pub const NAME_CHARS: usize = 52;
/// Rows kept in `status.memory.gpus` and `status.memory.hosts`; totals count every row.
pub const STATUS_ROWS: usize = 64;
/// Characters a refusal may take (an Event's note holds 1,024).
pub const MESSAGE_CHARS: usize = 1000;
