//! Whether requests to the Service reach an engine: pods may be ready, and the Service as we made it
//! in all that is ours, and still no endpoint stands behind it. Pure.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use plimsoll_crds::v1alpha1::{ConditionType, Reason};

use crate::pods::age;

/// The cluster takes a second or two from a pod's readiness to an endpoint; under load more.
const ENDPOINT_GRACE: Duration = Duration::from_secs(10);

/// What the cluster has of a resource's Service beside what is ours of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// It is of type ExternalName: a name of somewhere else.
    pub(crate) external: bool,
    /// An EndpointSlice of it has an endpoint that is ready.
    pub(crate) endpoint: bool,
}

/// What keeps requests from every engine, seen since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreached {
    pub(crate) since: Timestamp,
    pub(crate) external: bool,
}

/// Whether requests reach an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// They do, or no engine is ready that they could reach.
    Reached,
    /// No endpoint yet; this much of its time is left.
    Begun(Duration),
    /// Why not, and what to do.
    Lost(String),
}

impl Behind {
    /// What keeps requests from every engine, as seen `now`; `before` is what was seen last.
    pub(crate) fn unreached(
        self,
        ready: bool,
        before: Option<Unreached>,
        now: Timestamp,
    ) -> Option<Unreached> {
        let lost = ready && (self.external || !self.endpoint);
        lost.then(|| Unreached {
            since: before.map_or(now, |before| before.since),
            external: self.external,
        })
    }
}

/// Whether requests to the Service called `name` reach an engine; `before` are the conditions that
/// stand.
pub(crate) fn reach(
    unreached: Option<Unreached>,
    name: &str,
    before: &[Condition],
    now: Timestamp,
) -> Reach {
    let Some(unreached) = unreached else {
        return Reach::Reached;
    };
    // What an operator before this one has said is not taken back for a while.
    let rest = ENDPOINT_GRACE.saturating_sub(age(Some(unreached.since), now));
    if !rest.is_zero() && !said(before) {
        return Reach::Begun(rest);
    }
    Reach::Lost(match unreached.external {
        true => format!(
            "Service {name} is of type ExternalName, so that its name leads elsewhere and requests \
             reach no engine; give it back its type (kubectl patch service {name} --type=merge -p \
             '{{\"spec\":{{\"type\":\"ClusterIP\",\"externalName\":null}}}}'), or delete it: it is \
             made anew"
        ),
        false => format!(
            "Service {name} has no endpoint although engine pods are ready, so that requests reach \
             none: no EndpointSlice of it has a ready one (kubectl get endpointslices -l \
             kubernetes.io/service-name={name}); see whether the cluster's controller manager runs, \
             and whether something refuses or deletes EndpointSlices"
        ),
    })
}

fn said(before: &[Condition]) -> bool {
    before.iter().any(|it| {
        it.type_ == ConditionType::Ready.as_str() && it.reason == Reason::NoEndpoints.as_str()
    })
}
