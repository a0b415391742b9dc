//! A small API server behind a real socket, for passes: it keeps what is applied and the account
//! of which fields were, and refuses where a test says so. Nothing is claimed about Kubernetes
//! from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, store::Writer};
use kube::runtime::watcher::Event;
use kube::{Client, Resource};
use plimsoll_crds::v1alpha1::InferenceDeployment;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, mpsc};

use super::account::account;
use super::requests::words;
use super::settings;
use crate::mandate::Mandate;
use crate::memory::Memories;
use crate::metrics::Metrics;
use crate::reconcile::{Context, Settings};
use crate::reports::Reports;
use crate::steer::Steering;
use crate::stores::{Decoded, Stores, Watched, trimmed};
use crate::token::AdminKey;
use crate::turns::Turns;

/// What a test refuses: the HTTP status and the `Status` object, for a request's words.
type Refuse = Box<dyn Fn(&str) -> Option<(u16, Value)> + Send>;

struct Server {
    resource: Value,
    /// By kind and name, such as `services/smollm2`.
    objects: BTreeMap<String, Value>,
    /// Those that no watch sees.
    hidden: BTreeSet<String>,
    requests: Vec<String>,
    version: u64,
    refuse: Refuse,
}

/// The server, and the operator's copies of what it holds.
pub(crate) struct Cluster {
    pub(crate) context: Arc<Context>,
    server: Arc<Mutex<Server>>,
    writers: Writers,
}

struct Writers {
    _deployments: Writer<Decoded<InferenceDeployment>>,
    replica_sets: Writer<ReplicaSet>,
    pods: Writer<Pod>,
    config_maps: Writer<ConfigMap>,
    services: Writer<Service>,
    service_accounts: Writer<PartialObjectMeta<ServiceAccount>>,
    budgets: Writer<PartialObjectMeta<PodDisruptionBudget>>,
    endpoint_slices: Writer<EndpointSlice>,
}

impl Cluster {
    /// A cluster that has nothing but `resource`, and a new operator.
    pub(crate) async fn new(resource: &InferenceDeployment) -> Cluster {
        let server = Arc::new(Mutex::new(Server {
            resource: serde_json::to_value(resource).unwrap(),
            objects: BTreeMap::new(),
            hidden: BTreeSet::new(),
            requests: Vec::new(),
            version: 100,
            refuse: Box::new(|_| None),
        }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&server));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::try_from(kube::Config::new(uri.parse().unwrap())).unwrap();
        let (context, writers) = operator(client);
        Cluster {
            context,
            server,
            writers,
        }
    }

    /// The operator dies and another begins, with all that is in the cluster before its eyes.
    pub(crate) fn restart(&mut self) {
        (self.context, self.writers) = operator(self.context.client.clone());
        self.show();
    }

    /// The watches bring what the cluster has.
    pub(crate) fn show(&mut self) {
        let server = self.server.lock().unwrap();
        let mut objects = server.objects.clone();
        objects.retain(|name, _| !server.hidden.contains(name));
        drop(server);
        let Writers {
            _deployments: _,
            replica_sets,
            pods,
            config_maps,
            services,
            service_accounts,
            budgets,
            endpoint_slices,
        } = &mut self.writers;
        fill(replica_sets, &objects, "replicasets/");
        fill(pods, &objects, "pods/");
        fill(config_maps, &objects, "configmaps/");
        fill(services, &objects, "services/");
        fill(service_accounts, &objects, "serviceaccounts/");
        fill(budgets, &objects, "poddisruptionbudgets/");
        fill(endpoint_slices, &objects, "endpointslices/");
    }

    /// Somebody changes an object, by its kind and name; the watches bring it.
    pub(crate) fn edit(&mut self, object: &str, change: impl FnOnce(&mut Value)) {
        let mut server = self.server.lock().unwrap();
        server.version += 1;
        let version = server.version.to_string();
        let found = server.objects.get_mut(object).expect("it exists");
        change(found);
        found["metadata"]["resourceVersion"] = json!(version);
        drop(server);
        self.show();
    }

    /// Somebody makes an object, by its kind and name; the watches bring it.
    pub(crate) fn put(&mut self, object: &str, content: Value) {
        let nothing = json!({"metadata": {}});
        let mut server = self.server.lock().unwrap();
        let uid = format!("uid-of-{object}-{}", server.version);
        server.objects.insert(object.to_owned(), nothing);
        drop(server);
        self.edit(object, |it| {
            *it = content;
            it["metadata"]["uid"] = json!(uid);
        });
    }

    /// Somebody puts another object in an object's place; the watches have not seen it yet.
    pub(crate) fn swap(&mut self, object: &str, content: Value) {
        let mut server = self.server.lock().unwrap();
        server.objects.insert(object.to_owned(), content);
        let found = &mut server.objects.get_mut(object).expect("just put")["metadata"];
        found["uid"] = json!("another");
    }

    /// The watches see everything again.
    pub(crate) fn show_all(&mut self) {
        self.server.lock().unwrap().hidden.clear();
        self.show();
    }

    /// Somebody deletes an object, by its kind and name; the watches bring it.
    pub(crate) fn remove(&mut self, object: &str) {
        self.server.lock().unwrap().objects.remove(object);
        self.show();
    }

    /// The watches lose sight of an object, by its kind and name.
    pub(crate) fn hide(&mut self, object: &str) {
        self.server.lock().unwrap().hidden.insert(object.to_owned());
        self.show();
    }

    pub(crate) fn refuse(&self, refuse: impl Fn(&str) -> Option<(u16, Value)> + Send + 'static) {
        self.server.lock().unwrap().refuse = Box::new(refuse);
    }

    /// What was asked of the server since the last look, in words.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.server.lock().unwrap().requests)
    }

    /// An object, by its kind and name.
    pub(crate) fn object(&self, object: &str) -> Value {
        self.server.lock().unwrap().objects[object].clone()
    }

    /// The names of the objects of a kind.
    pub(crate) fn names(&self, kind: &str) -> Vec<String> {
        let objects = &self.server.lock().unwrap().objects;
        let of_kind = objects.keys().filter_map(|key| key.strip_prefix(kind));
        of_kind
            .filter_map(|rest| Some(rest.strip_prefix('/')?.to_owned()))
            .collect()
    }

    /// The status as it was written last.
    pub(crate) fn status(&self) -> Value {
        self.server.lock().unwrap().resource["status"].clone()
    }
}

fn operator(client: Client) -> (Arc<Context>, Writers) {
    let (deployments, _deployments) = reflector::store();
    let (replica_sets, replica_sets_writer) = reflector::store();
    let (pods, pods_writer) = reflector::store();
    let (config_maps, config_maps_writer) = reflector::store();
    let (services, services_writer) = reflector::store();
    let (service_accounts, service_accounts_writer) = reflector::store();
    let (budgets, budgets_writer) = reflector::store();
    let (endpoint_slices, endpoint_slices_writer) = reflector::store();
    let metrics = Arc::new(Metrics::new().unwrap());
    let (nudges, _) = mpsc::channel(1);
    let context = Context {
        client,
        stores: Stores {
            deployments,
            replica_sets,
            pods,
            config_maps,
            services,
            service_accounts,
            budgets,
            endpoint_slices,
        },
        filled: OnceCell::new_with(Some(())),
        steering: Steering::new(nudges.clone(), Mandate::forever()),
        reports: Arc::new(Reports::new(
            nudges,
            Arc::clone(&metrics),
            Duration::from_secs(90),
        )),
        memories: Memories::default(),
        turns: Arc::new(Turns::new(1)),
        metrics,
        key: AdminKey::new(b"0123456789abcdef".to_vec()).unwrap(),
        settings: Settings {
            pods: settings(),
            status_interval: Duration::from_secs(30),
            renew_every: Duration::from_secs(300),
            unschedulable_after: Duration::from_secs(60),
            pod_name: None,
        },
    };
    let writers = Writers {
        _deployments,
        replica_sets: replica_sets_writer,
        pods: pods_writer,
        config_maps: config_maps_writer,
        services: services_writer,
        service_accounts: service_accounts_writer,
        budgets: budgets_writer,
        endpoint_slices: endpoint_slices_writer,
    };
    (Arc::new(context), writers)
}

fn fill<K>(writer: &mut Writer<K>, objects: &BTreeMap<String, Value>, prefix: &str)
where
    K: Watched + Resource<DynamicType = ()> + 'static,
{
    writer.apply_watcher_event(&Event::Init);
    let of_kind = objects.iter().filter(|(key, _)| key.starts_with(prefix));
    for (_, object) in of_kind {
        let mut object: K = serde_json::from_value(object.clone()).unwrap();
        trimmed(&mut object);
        writer.apply_watcher_event(&Event::InitApply(object));
    }
    writer.apply_watcher_event(&Event::InitDone);
}

async fn answer(
    State(server): State<Arc<Mutex<Server>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Response {
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    let mut server = server.lock().unwrap();
    let applies = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|it| it == "application/apply-patch+yaml");
    let words = words((&method, &uri, applies), &body);
    server.requests.push(words.clone());
    let (code, answer) = match (server.refuse)(&words) {
        Some(refusal) => refusal,
        None => server.take(&words, body),
    };
    (StatusCode::from_u16(code).unwrap(), answer.to_string()).into_response()
}

fn conflict() -> (u16, Value) {
    let words = "the object exists, or is another one";
    (
        409,
        json!({"kind": "Status", "status": "Failure", "code": 409, "message": words}),
    )
}

impl Server {
    /// Whether what a request takes for granted is so: that there is nothing, or this very object.
    fn has(&self, verb: &str, key: &str, body: &Value) -> bool {
        let found = self.objects.get(key).map(|found| &found["metadata"]["uid"]);
        let asked = match verb {
            "create" => return found.is_none(),
            "delete" => &body["preconditions"]["uid"],
            _ => &body["metadata"]["uid"],
        };
        asked.is_null() || found == Some(asked)
    }

    /// Of a pod's containers only what they may use changes.
    fn resize(&mut self, key: &str, spec: &Value) -> Value {
        self.version += 1;
        let pod = self.objects.get_mut(key).expect("it was looked for");
        for list in ["containers", "initContainers"] {
            for asked in spec[list].as_array().into_iter().flatten() {
                let all = pod["spec"][list].as_array_mut().into_iter().flatten();
                let named = all.filter(|it| it["name"] == asked["name"]);
                named.for_each(|it| lay_over(it, asked));
            }
        }
        pod["metadata"]["resourceVersion"] = json!(self.version.to_string());
        pod.clone()
    }

    fn take(&mut self, words: &str, body: Value) -> (u16, Value) {
        let mut parts = words.split(' ');
        let verb = parts.next().unwrap();
        let key = parts.next().unwrap_or_default().trim_end_matches('!');
        match verb {
            "event" => return (201, body),
            "status" => {
                self.resource["status"] = body["status"].clone();
                return (200, self.resource.clone());
            }
            _ if !self.has(verb, key, &body) => return conflict(),
            "delete" => {
                self.objects.remove(key);
                return (200, json!({"kind": "Status", "status": "Success"}));
            }
            "look" => return (200, self.objects[key].clone()),
            "resize" => return (200, self.resize(key, &body["spec"])),
            _ => {}
        }
        self.version += 1;
        let uid = format!("uid-of-{key}-{}", self.version);
        let before = self.objects.entry(key.to_owned()).or_insert(json!({}));
        let mut after = before.clone();
        lay_over(&mut after, &body);
        let operation = match verb {
            "apply" => Some("Apply"),
            "create" => Some("Update"),
            _ => None,
        };
        if let Some(operation) = operation {
            after["metadata"]["managedFields"] = json!([{
                "manager": "plimsoll-operator", "operation": operation, "fieldsV1": account(&body),
            }]);
        }
        if after["metadata"].get("uid").is_none() {
            after["metadata"]["uid"] = json!(uid);
        }
        if after != *before {
            after["metadata"]["resourceVersion"] = json!(self.version.to_string());
        }
        *before = after.clone();
        (200, after)
    }
}

fn lay_over(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                lay_over(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}
