//! The operator's flags. Each has an environment variable too, so that a chart can set either.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use plimsoll_crds::v1alpha1::model::PullPolicy;

/// Engines report at least this often; a pod that is stale sooner is stale between two reports.
const REPORTS_EVERY: Duration = Duration::from_secs(30);
/// A status that is written more often than this is load on the API server, and no news.
const LEAST_STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// The scheduler needs a moment to find a node where there is one.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// Turns InferenceDeployments into engine pods and publishes the memory they really hold.
#[derive(Clone, Debug, Parser)]
#[command(name = "plimsoll-operator", version)]
pub(crate) struct Args {
    /// Image of the sidecar, for engine and inspect pods.
    #[arg(long, env = "PLIMSOLL_SIDECAR_IMAGE")]
    pub(crate) sidecar_image: String,

    /// When nodes pull the sidecar's image.
    #[arg(
        long,
        env = "PLIMSOLL_IMAGE_PULL_POLICY",
        default_value = "IfNotPresent",
        value_parser = pull_policy
    )]
    pub(crate) image_pull_policy: PullPolicy,

    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "PLIMSOLL_METRICS_ADDRESS", default_value = "0.0.0.0:8080")]
    pub(crate) metrics_address: SocketAddr,

    /// Only the holder of a Lease reconciles; off for a run by hand.
    #[arg(
        long,
        env = "PLIMSOLL_LEADER_ELECTION",
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub(crate) leader_election: bool,

    /// Name of the Lease.
    #[arg(long, env = "PLIMSOLL_LEASE_NAME", default_value = "plimsoll-operator")]
    pub(crate) lease_name: String,

    /// Namespace of the Lease and of the key; the operator's own namespace in a cluster.
    #[arg(long, env = "PLIMSOLL_LEASE_NAMESPACE")]
    pub(crate) lease_namespace: Option<String>,

    /// Namespaces to watch, separated by commas; all of them if empty.
    #[arg(long, env = "PLIMSOLL_WATCH_NAMESPACES", value_delimiter = ',')]
    pub(crate) watch_namespaces: Vec<String>,

    /// Secret with the key that admin tokens are derived from (field `key`, at least 16 bytes), in
    /// the namespace of the Lease. A process that finds it replaced ends, and begins with the new.
    #[arg(
        long,
        env = "PLIMSOLL_KEY_SECRET",
        default_value = "plimsoll-operator-key"
    )]
    pub(crate) key_secret: String,

    /// Make that Secret where it is not there.
    #[arg(
        long,
        env = "PLIMSOLL_MAKE_KEY",
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub(crate) make_key: bool,

    /// File with the key, instead of a Secret: for a run by hand.
    #[arg(long, env = "PLIMSOLL_HMAC_KEY_FILE")]
    pub(crate) hmac_key_file: Option<PathBuf>,

    /// How log lines are written.
    #[arg(long, env = "PLIMSOLL_LOG_FORMAT", default_value = "text", value_enum)]
    pub(crate) log_format: LogFormat,

    /// Least time between two status writes of one resource that only move figures.
    #[arg(
        long,
        env = "PLIMSOLL_STATUS_INTERVAL",
        default_value = "30s",
        value_parser = duration
    )]
    pub(crate) status_interval: Duration,

    /// Time after which the rows of a status are written again although nothing moved, give or take
    /// a fifth: nobody need guess whether rows are old or merely unchanged.
    #[arg(long, env = "PLIMSOLL_RENEW_EVERY", default_value = "5m", value_parser = duration)]
    pub(crate) renew_every: Duration,

    /// Silence after which a pod's last report is marked stale.
    #[arg(long, env = "PLIMSOLL_STALE_AFTER", default_value = "90s", value_parser = duration)]
    pub(crate) stale_after: Duration,

    /// How long a new pod may stay unschedulable before it replaces an old one.
    #[arg(
        long,
        env = "PLIMSOLL_UNSCHEDULABLE_AFTER",
        default_value = "60s",
        value_parser = duration
    )]
    pub(crate) unschedulable_after: Duration,

    /// Rollouts at once of resources whose spec did not change: where this operator makes pods
    /// differently, the next one begins when the one before is Ready.
    #[arg(
        long,
        env = "PLIMSOLL_MAX_CONCURRENT_ROLLOUTS",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub(crate) max_concurrent_rollouts: u16,

    /// Name of this pod: candidate of the election, and reporter of Events.
    #[arg(long, env = "POD_NAME")]
    pub(crate) pod_name: Option<String>,

    /// Kubeconfig to use instead of the pod's service account.
    #[arg(long)]
    pub(crate) kubeconfig: Option<PathBuf>,
}

impl Args {
    /// The namespace of the operator's own objects.
    pub(crate) fn own_namespace(&self, client: &kube::Client) -> String {
        self.lease_namespace
            .clone()
            .unwrap_or_else(|| client.default_namespace().to_owned())
    }

    /// What is watched: each namespace named, or all (`None`).
    pub(crate) fn scopes(&self) -> Vec<Option<String>> {
        let named = self.watch_namespaces.iter().filter(|name| !name.is_empty());
        let named: Vec<Option<String>> = named.cloned().map(Some).collect();
        match named.is_empty() {
            true => vec![None],
            false => named,
        }
    }

    /// Refuses what each flag allows for itself and makes no sense in a running operator.
    ///
    /// # Errors
    /// The flag, its value, the bound and its reason, and what to write instead.
    pub(crate) fn check(&self) -> Result<(), String> {
        let seconds = Duration::as_secs_f64;
        if self.stale_after <= REPORTS_EVERY {
            return Err(format!(
                "--stale-after: {} s is not more than the {} s between two reports of an engine, \
                 so that healthy pods would turn stale and fresh again all the time; write more \
                 than {}s, or leave it at 90s",
                seconds(&self.stale_after),
                seconds(&REPORTS_EVERY),
                seconds(&REPORTS_EVERY),
            ));
        }
        if self.status_interval < LEAST_STATUS_INTERVAL {
            return Err(format!(
                "--status-interval: {} s between two writes is less than {} s: every figure that \
                 moves would be written; write 1s or more, or leave it at 30s (states are written \
                 at once whatever it is)",
                seconds(&self.status_interval),
                seconds(&LEAST_STATUS_INTERVAL),
            ));
        }
        if self.renew_every < REPORTS_EVERY {
            return Err(format!(
                "--renew-every: {} s is less than the {} s between two reports of an engine: there \
                 would be nothing newer to write; write {}s or more, or leave it at 5m",
                seconds(&self.renew_every),
                seconds(&REPORTS_EVERY),
                seconds(&REPORTS_EVERY),
            ));
        }
        if self.unschedulable_after < LEAST_PATIENCE {
            return Err(format!(
                "--unschedulable-after: {} s is less than the {} s that a scheduler may take, so \
                 that old pods would be stopped although there is room; write 1s or more, or leave \
                 it at 60s",
                seconds(&self.unschedulable_after),
                seconds(&LEAST_PATIENCE),
            ));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Json,
    Text,
}

/// `imagePullPolicy` of a container, in whatever case.
fn pull_policy(text: &str) -> Result<PullPolicy, String> {
    let same = |policy: &PullPolicy| policy.as_str().eq_ignore_ascii_case(text);
    let all = [
        PullPolicy::Always,
        PullPolicy::IfNotPresent,
        PullPolicy::Never,
    ];
    let found = all.into_iter().find(same);
    found.ok_or_else(|| format!("{text:?} is none: write Always, IfNotPresent or Never"))
}

/// `250ms`, `30s`, `2m`: a whole number and a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let milliseconds_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => {
            return Err(format!(
                "{text:?} is not a duration: write 250ms, 30s or 2m"
            ));
        }
    };
    let count: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} does not start with a whole number: write 250ms or 30s"))?;
    let milliseconds = count
        .checked_mul(milliseconds_per_unit)
        .filter(|ms| *ms <= 24 * 3_600_000)
        .ok_or_else(|| format!("{text:?} is longer than a day"))?;
    Ok(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        let fixed = ["plimsoll-operator", "--sidecar-image", "sidecar:dev"];
        Args::try_parse_from(fixed.iter().chain(words))
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let args = parse(&[]).unwrap();
        assert!(args.leader_election);
        assert_eq!(args.metrics_address.port(), 8080);
        assert_eq!(args.status_interval, Duration::from_secs(30));
        assert_eq!(args.stale_after, Duration::from_secs(90));
        assert_eq!(args.renew_every, Duration::from_secs(300));
        assert_eq!(args.unschedulable_after, Duration::from_secs(60));
        assert_eq!(args.image_pull_policy, PullPolicy::IfNotPresent);
        assert_eq!(args.max_concurrent_rollouts, 1);
        assert!(parse(&["--max-concurrent-rollouts=0"]).is_err());
        assert_eq!(args.scopes(), [None]);
        assert_eq!(args.key_secret, "plimsoll-operator-key");
        assert!(args.make_key && args.hmac_key_file.is_none());
    }

    #[test]
    fn flags_take_the_forms_that_the_chart_writes() {
        let args = parse(&[
            "--leader-election=false",
            "--image-pull-policy=never",
            "--watch-namespaces=a,b",
            "--make-key=false",
            "--log-format=json",
            "--stale-after=31500ms",
        ])
        .unwrap();
        assert!(!args.leader_election);
        assert_eq!(args.image_pull_policy, PullPolicy::Never);
        assert_eq!(args.scopes(), [Some("a".to_owned()), Some("b".to_owned())]);
        assert!(!args.make_key);
        assert_eq!(args.log_format, LogFormat::Json);
        assert_eq!(args.stale_after, Duration::from_millis(31_500));
    }

    #[test]
    fn flags_that_would_make_rows_flap_or_storm_are_refused_with_the_numbers() {
        for (flag, words) in [
            ("--stale-after=30s", "30 s is not more than the 30 s"),
            ("--stale-after=1500ms", "1.5 s is not more than the 30 s"),
            ("--stale-after=0s", "write more than 30s"),
            (
                "--status-interval=0s",
                "0 s between two writes is less than 1 s",
            ),
            ("--status-interval=999ms", "0.999 s between"),
            ("--unschedulable-after=0ms", "0 s is less than the 1 s"),
            ("--renew-every=29s", "29 s is less than the 30 s between"),
        ] {
            let refusal = parse(&[flag]).unwrap().check().unwrap_err();
            let name = flag.split('=').next().unwrap();
            assert!(refusal.starts_with(name), "{refusal}");
            assert!(refusal.contains(words), "{refusal}");
        }
        for flag in [
            "--log-format=text",
            "--stale-after=30001ms",
            "--status-interval=1s",
            "--unschedulable-after=1s",
        ] {
            assert_eq!(parse(&[flag]).unwrap().check(), Ok(()), "{flag}");
        }
    }

    #[test]
    fn durations_that_mean_nothing_are_refused() {
        for text in [
            "",
            "s",
            "30",
            "-1s",
            "1h",
            "1.5s",
            "99999999999999999999s",
            "90000m",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
