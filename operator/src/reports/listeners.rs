//! Which engines can be listened to. Pure.

use kube::runtime::reflector::ObjectRef;
use plimsoll_crds::names;

use super::Listener;
use crate::facts::Facts;

/// The engines that can be listened to.
pub(crate) fn listeners(facts: &Facts) -> Vec<Listener> {
    let resource = ObjectRef::new(&facts.identity.name).within(facts.identity.namespace.as_str());
    let listens = facts.pods.iter().filter(|pod| !pod.finished());
    listens
        .filter_map(|pod| {
            // Before its first start an engine has nothing to say.
            let lives = pod.engine.running || pod.engine.restarts > 0 || pod.ready;
            Some(Listener {
                resource: resource.clone(),
                pod: pod.name.clone(),
                pod_uid: pod.uid.clone(),
                ip: pod.ip.clone().filter(|_| lives)?,
                port: names::PORT_ADMIN,
            })
        })
        .collect()
}
