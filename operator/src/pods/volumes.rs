//! What a pod that has a node waits for before its containers can be made: its volumes.
//!
//! The kubelet says `PodReadyToStartContainers` is False until volumes are mounted and a network is
//! made, and no more than that; its own words are in Events, which the operator has no right to read.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Volume, VolumeProjection};
use k8s_openapi::jiff::Timestamp;

use super::{PodFacts, age};

/// Volumes are on their way for so long; then it is said that they are waited for. Attaching one
/// over a network takes longer now and then: what is said says so.
const MOUNT_GRACE: Duration = Duration::from_secs(15);
/// Volumes that are named; the rest is counted.
const NAMED: usize = 4;
/// How names of the operator's own volumes begin.
const OURS: &str = "plimsoll-";

/// The volumes of a pod that have to come from somewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Volumes {
    /// Names of claims.
    pub(crate) claims: Vec<String>,
    /// What else has to exist or be reached, such as `Secret tls`.
    pub(crate) others: Vec<String>,
}

/// Whether a pod waits for its volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mounting {
    /// They are there, or the pod has no node yet, or the kubelet does not say.
    No,
    /// Not for long yet: this much of its grace is left.
    Begun(Duration),
    /// For longer than that.
    Late(Timestamp),
}

impl Volumes {
    pub(super) fn read(pod: &Pod) -> Volumes {
        let mut all = Volumes::default();
        let volumes = pod
            .spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten());
        for volume in volumes {
            all.take(volume, pod.metadata.name.as_deref().unwrap_or_default());
        }
        all
    }

    fn take(&mut self, volume: &Volume, pod: &str) {
        let Volume {
            name,
            persistent_volume_claim,
            ephemeral,
            secret,
            config_map,
            projected,
            host_path,
            csi,
            nfs,
            ..
        } = volume;
        if let Some(claim) = persistent_volume_claim {
            self.claims.push(claim.claim_name.clone());
        }
        if ephemeral.is_some() {
            self.claims.push(format!("{pod}-{name}"));
        }
        if let Some(secret) = secret.as_ref().filter(|it| it.optional != Some(true)) {
            let name = secret.secret_name.as_deref().unwrap_or_default();
            self.others.push(format!("Secret {name}"));
        }
        if let Some(map) = config_map.as_ref().filter(|it| it.optional != Some(true)) {
            self.others.push(format!("ConfigMap {}", map.name));
        }
        // What the operator makes itself is no news.
        let theirs = projected.as_ref().filter(|_| !name.starts_with(OURS));
        let projections = theirs.iter().flat_map(|it| it.sources.iter().flatten());
        self.others.extend(projections.filter_map(projected_from));
        if let Some(folder) = host_path {
            self.others.push(format!("the node's {}", folder.path));
        }
        if let Some(csi) = csi {
            self.others.push(format!("a volume of {}", csi.driver));
        }
        if let Some(nfs) = nfs {
            self.others.push(format!("{}:{}", nfs.server, nfs.path));
        }
    }

    /// Claims first.
    pub(crate) fn words(&self) -> String {
        let claims = self.claims.iter().map(|name| format!("claim {name}"));
        let all: Vec<String> = claims.chain(self.others.iter().cloned()).collect();
        match all.len().checked_sub(NAMED) {
            _ if all.is_empty() => "none that has to come from elsewhere".to_owned(),
            Some(more @ 1..) => format!("{} and {more} more", all[..NAMED].join(", ")),
            Some(0) | None => all.join(", "),
        }
    }
}

fn projected_from(source: &VolumeProjection) -> Option<String> {
    let secret = source.secret.as_ref();
    let secret = secret.filter(|it| it.optional != Some(true));
    let map = source.config_map.as_ref();
    let map = map.filter(|it| it.optional != Some(true));
    match (secret, map) {
        (Some(secret), _) => Some(format!("Secret {}", secret.name)),
        (None, Some(map)) => Some(format!("ConfigMap {}", map.name)),
        (None, None) => None,
    }
}

impl PodFacts {
    /// Whether it waits for its volumes.
    pub(crate) fn mounting(&self, now: Timestamp) -> Mounting {
        let since = self.unmounted_since.filter(|_| self.counts());
        let Some(since) = since else {
            return Mounting::No;
        };
        match MOUNT_GRACE.saturating_sub(age(Some(since), now)) {
            Duration::ZERO => Mounting::Late(since),
            rest => Mounting::Begun(rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(volumes: serde_json::Value) -> Volumes {
        let pod = json!({
            "metadata": {"name": "x"},
            "spec": {"containers": [], "volumes": volumes},
        });
        Volumes::read(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn volumes_that_come_from_elsewhere_are_named_claims_first_and_the_rest_counted() {
        let all = of(json!([
            {"name": "tmp", "emptyDir": {}},
            {"name": "tls", "secret": {"secretName": "tls"}},
            {"name": "may-lack", "secret": {"secretName": "x", "optional": true}},
            {"name": "both", "projected": {"sources": [
                {"configMap": {"name": "plan"}}, {"secret": {"name": "token"}},
                {"configMap": {"name": "y", "optional": true}},
                {"serviceAccountToken": {"path": "t"}},
            ]}},
            {"name": "plimsoll-config", "projected": {"sources": [{"secret": {"name": "z"}}]}},
            {"name": "plimsoll-model", "persistentVolumeClaim": {"claimName": "models"}},
            {"name": "scratch", "ephemeral": {}},
        ]));
        assert_eq!(all.claims, ["models", "x-scratch"]);
        assert_eq!(all.others, ["Secret tls", "ConfigMap plan", "Secret token"]);
        assert_eq!(
            all.words(),
            "claim models, claim x-scratch, Secret tls, ConfigMap plan and 1 more"
        );
        let others = of(json!([
            {"name": "a", "hostPath": {"path": "/models"}},
            {"name": "b", "nfs": {"server": "files", "path": "/models"}},
            {"name": "c", "csi": {"driver": "s3.csi"}},
        ]));
        assert_eq!(
            others.words(),
            "the node's /models, files:/models, a volume of s3.csi"
        );
    }
}
