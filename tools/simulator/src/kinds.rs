//! The resources served.

use serde_json::{Value, json};

/// The version of the API server and of the kubelet.
pub(crate) const VERSION: &str = "v1.37.2+embedded";

/// A resource type.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// API group; empty for core.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Kind name.
    pub kind: &'static str,
    /// Resource name in paths.
    pub plural: &'static str,
    /// Singular resource name.
    pub singular: &'static str,
    /// Short names for kubectl.
    pub short: &'static [&'static str],
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Subresources.
    pub subresources: &'static [&'static str],
}

impl Kind {
    /// `jobs.batch` or `pods`.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `batch/v1` or `v1`.
    pub(crate) fn api_version(&self) -> String {
        group_version(self.group, self.version)
    }

    /// Whether only `create` is served and nothing is stored.
    pub(crate) fn is_review(&self) -> bool {
        self.group == "authorization.k8s.io"
    }

    /// Whether deleting answers with the object instead of a Status.
    pub(crate) fn returns_deleted(&self) -> bool {
        matches!(self.kind, "Pod" | "PersistentVolumeClaim" | "ServiceAccount" | "Namespace")
    }
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_string() } else { format!("{group}/{version}") }
}

const fn core(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
    subresources: &'static [&'static str],
) -> Kind {
    Kind { group: "", version: "v1", kind, plural, singular, short, namespaced, subresources }
}

/// Pods.
pub(crate) static POD: Kind = core("Pod", "pods", "pod", &["po"], true, &["eviction", "log", "status"]);
/// Secrets.
pub(crate) static SECRET: Kind = core("Secret", "secrets", "secret", &[], true, &[]);
/// ConfigMaps.
pub(crate) static CONFIG_MAP: Kind = core("ConfigMap", "configmaps", "configmap", &["cm"], true, &[]);
/// PersistentVolumeClaims.
pub(crate) static PVC: Kind = core(
    "PersistentVolumeClaim",
    "persistentvolumeclaims",
    "persistentvolumeclaim",
    &["pvc"],
    true,
    &["status"],
);
/// Namespaces.
pub(crate) static NAMESPACE: Kind = core("Namespace", "namespaces", "namespace", &["ns"], false, &["status"]);
/// Events.
pub(crate) static EVENT: Kind = core("Event", "events", "event", &["ev"], true, &[]);
/// Resource quotas.
pub(crate) static RESOURCE_QUOTA: Kind =
    core("ResourceQuota", "resourcequotas", "resourcequota", &["quota"], true, &["status"]);
/// Limit ranges.
pub(crate) static LIMIT_RANGE: Kind = core("LimitRange", "limitranges", "limitrange", &["limits"], true, &[]);
/// ServiceAccounts.
pub(crate) static SERVICE_ACCOUNT: Kind =
    core("ServiceAccount", "serviceaccounts", "serviceaccount", &["sa"], true, &[]);
/// Nodes.
pub(crate) static NODE: Kind = core("Node", "nodes", "node", &["no"], false, &["status"]);
/// Jobs.
pub(crate) static JOB: Kind = Kind {
    group: "batch",
    version: "v1",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    short: &[],
    namespaced: true,
    subresources: &["status"],
};
/// `PriorityClass`es.
pub(crate) static PRIORITY_CLASS: Kind = Kind {
    group: "scheduling.k8s.io",
    version: "v1",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short: &["pc"],
    namespaced: false,
    subresources: &[],
};
/// SelfSubjectAccessReviews.
pub(crate) static REVIEW: Kind = Kind {
    group: "authorization.k8s.io",
    version: "v1",
    kind: "SelfSubjectAccessReview",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    short: &[],
    namespaced: false,
    subresources: &[],
};

/// Every resource type.
pub(crate) static ALL: [&Kind; 13] = [
    &POD,
    &SECRET,
    &CONFIG_MAP,
    &PVC,
    &NAMESPACE,
    &EVENT,
    &RESOURCE_QUOTA,
    &LIMIT_RANGE,
    &SERVICE_ACCOUNT,
    &NODE,
    &JOB,
    &PRIORITY_CLASS,
    &REVIEW,
];

/// The resource type at a group, version and path name.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    ALL.into_iter().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The resource type of an object's `apiVersion` and `kind`.
pub(crate) fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    ALL.into_iter().find(|k| k.kind == kind && k.api_version() == api_version)
}

const GROUPS: [&str; 3] = ["authorization.k8s.io", "batch", "scheduling.k8s.io"];

/// The discovery document at a path, if it is one.
pub(crate) fn discovery(path: &str, host: &str) -> Option<Value> {
    match path {
        "/version" => Some(json!({
            "major": "1", "minor": "37", "gitVersion": VERSION,
            "gitCommit": "", "gitTreeState": "clean", "buildDate": "2026-10-20T00:00:00Z",
            "goVersion": "go1.26", "compiler": "gc", "platform": "linux/amd64",
        })),
        "/api" => Some(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}],
        })),
        "/apis" => Some(json!({
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": GROUPS.map(group_doc),
        })),
        "/api/v1" => Some(resource_list("")),
        _ => {
            let rest = path.strip_prefix("/apis/")?;
            match rest.split_once('/') {
                None => GROUPS.contains(&rest).then(|| {
                    let mut doc = group_doc(rest);
                    doc["kind"] = "APIGroup".into();
                    doc["apiVersion"] = "v1".into();
                    doc
                }),
                Some((group, "v1")) if GROUPS.contains(&group) => Some(resource_list(group)),
                Some(_) => None,
            }
        }
    }
}

fn group_doc(group: &str) -> Value {
    let version = json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

fn resource_list(group: &str) -> Value {
    let mut resources = Vec::new();
    for k in ALL.into_iter().filter(|k| k.group == group) {
        let verbs = if k.is_review() {
            json!(["create"])
        } else {
            json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"])
        };
        resources.push(json!({
            "name": k.plural, "singularName": k.singular, "namespaced": k.namespaced,
            "kind": k.kind, "verbs": verbs, "shortNames": k.short,
        }));
        for sub in k.subresources {
            let (kind, verbs) = match *sub {
                "log" => ("Pod", json!(["get"])),
                "eviction" => ("Eviction", json!(["create"])),
                _ => (k.kind, json!(["get", "patch", "update"])),
            };
            resources.push(json!({
                "name": format!("{}/{sub}", k.plural), "singularName": "",
                "namespaced": k.namespaced, "kind": kind, "verbs": verbs,
            }));
        }
    }
    json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": group_version(group, "v1"), "resources": resources,
    })
}
