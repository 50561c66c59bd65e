//! Decodes lists and watches: JSON in, typed objects out. An object that cannot be read is an error of that object
//! alone, never of the list or watch around it.
//!
//! Of a watched object only metadata, status and a few fields of the spec are decoded. The rest, most of its bytes, is
//! skipped: no caller needs it, and the objects of all runs are kept in memory.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::{ApiError, ApiErrorKind, MOST_WATCHED, WatchKind};

/// A kind of object that can be watched.
pub(super) trait Watchable: Send + Sync + Sized + 'static {
    /// The kind in requests.
    const KIND: WatchKind;

    fn meta(&self) -> &ObjectMeta;

    /// Decodes metadata, status and what of the spec is needed.
    fn decode(json: &str) -> serde_json::Result<Self>;

    /// The name of the Job that an object belongs to, where its JSON shows it.
    fn job_of_json(object: &Value) -> Option<&str>;
}

impl Watchable for Job {
    const KIND: WatchKind = WatchKind::Jobs;

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn decode(json: &str) -> serde_json::Result<Self> {
        let Decoded { metadata, spec, status } = serde_json::from_str(json)?;
        Ok(Self { metadata: metadata.into(), spec: spec.map(JobSlice::into), status })
    }

    fn job_of_json(object: &Value) -> Option<&str> {
        object["metadata"]["name"].as_str()
    }
}

impl Watchable for Pod {
    const KIND: WatchKind = WatchKind::Pods;

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn decode(json: &str) -> serde_json::Result<Self> {
        let Decoded { metadata, spec, status } = serde_json::from_str(json)?;
        Ok(Self { metadata: metadata.into(), spec: spec.map(PodSlice::into), status })
    }

    fn job_of_json(object: &Value) -> Option<&str> {
        let meta = &object["metadata"];
        let owners = meta["ownerReferences"].as_array().into_iter().flatten();
        owners
            .filter(|owner| owner["kind"] == "Job")
            .find_map(|owner| owner["name"].as_str())
            .or_else(|| meta["labels"]["job-name"].as_str())
    }
}

/// The part of an object that is decoded.
#[derive(Deserialize)]
struct Decoded<S, T> {
    #[serde(default)]
    metadata: Meta,
    spec: Option<S>,
    status: Option<T>,
}

/// What of a Job's spec is decoded: whether it waits for a queue.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobSlice {
    suspend: Option<bool>,
    managed_by: Option<String>,
}

impl From<JobSlice> for JobSpec {
    fn from(spec: JobSlice) -> Self {
        Self { suspend: spec.suspend, managed_by: spec.managed_by, ..Self::default() }
    }
}

/// What of a pod's spec is decoded: its node, its grace period, and which init containers are sidecars.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSlice {
    node_name: Option<String>,
    termination_grace_period_seconds: Option<i64>,
    init_containers: Option<Vec<ContainerSlice>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerSlice {
    name: String,
    restart_policy: Option<String>,
}

impl From<PodSlice> for PodSpec {
    fn from(spec: PodSlice) -> Self {
        let container = |slice: ContainerSlice| Container {
            name: slice.name,
            restart_policy: slice.restart_policy,
            ..Container::default()
        };
        // Most have none that the defaults would not do for.
        let sidecars = spec.init_containers.into_iter().flatten().filter(|one| one.restart_policy.is_some());
        let sidecars: Vec<Container> = sidecars.map(container).collect();
        let init_containers = (!sidecars.is_empty()).then_some(sidecars);
        Self {
            node_name: spec.node_name,
            termination_grace_period_seconds: spec.termination_grace_period_seconds,
            init_containers,
            ..Self::default()
        }
    }
}

/// The part of its metadata that is decoded. The skipped annotations and managed fields can be larger than
/// everything else.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    finalizers: Option<Vec<String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

impl From<Meta> for ObjectMeta {
    fn from(meta: Meta) -> Self {
        Self {
            name: meta.name,
            namespace: meta.namespace,
            uid: meta.uid,
            resource_version: meta.resource_version,
            creation_timestamp: meta.creation_timestamp,
            deletion_timestamp: meta.deletion_timestamp,
            deletion_grace_period_seconds: meta.deletion_grace_period_seconds,
            labels: meta.labels,
            finalizers: meta.finalizers,
            owner_references: meta.owner_references,
            ..Self::default()
        }
    }
}

/// Name and, where it is known, UID of the Job that a pod belongs to.
pub(super) fn job_of_pod(pod: &Pod) -> Option<(&str, Option<&str>)> {
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.kind == "Job");
    match owner {
        Some(owner) => Some((&owner.name, Some(&owner.uid))),
        None => pod.metadata.labels.as_ref()?.get("job-name").map(|name| (name.as_str(), None)),
    }
}

/// One event of a watch.
pub(super) enum WatchEvent<T> {
    /// `ADDED`: created, or reported because the watch has only just begun.
    Added(T),
    /// `MODIFIED`.
    Modified(T),
    /// `DELETED`, with the object's last state.
    Deleted(T),
    /// `BOOKMARK`: every change up to this version has been sent.
    Bookmark(Option<String>),
    /// `ERROR`: the watch has failed.
    Failed(ApiError),
}

/// An object, or a line, that cannot be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// The Job it belongs to, where that much could be read.
    pub(super) job: Option<String>,
    /// The object's own name, where that could be read.
    pub(super) name: Option<String>,
}

/// Decodes an object.
fn decode_object<T: Watchable>(json: &str) -> Result<T, Unreadable> {
    T::decode(json).map_err(|_| {
        let json: Value = serde_json::from_str(json).unwrap_or_default();
        Unreadable {
            job: T::job_of_json(&json).map(str::to_owned),
            name: json["metadata"]["name"].as_str().map(str::to_owned),
        }
    })
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
}

/// Decodes one line of a watch.
pub(super) fn decode_line<T: Watchable>(line: &[u8]) -> Result<WatchEvent<T>, Unreadable> {
    let Line { kind, object: json } = serde_json::from_slice(line).map_err(|_| Unreadable::default())?;
    let json = json.map_or("null", RawValue::get);
    let value = || serde_json::from_str::<Value>(json).unwrap_or_default();
    match kind.as_ref() {
        "ADDED" => decode_object(json).map(WatchEvent::Added),
        "MODIFIED" => decode_object(json).map(WatchEvent::Modified),
        "DELETED" => decode_object(json).map(WatchEvent::Deleted),
        "BOOKMARK" => {
            Ok(WatchEvent::Bookmark(value()["metadata"]["resourceVersion"].as_str().map(str::to_owned)))
        }
        "ERROR" => {
            let code = value()["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
            let attempt = format!("watch {}", T::KIND.resource());
            Ok(WatchEvent::Failed(ApiError::from_answer(attempt, code, None, json.as_bytes())))
        }
        _ => Err(Unreadable::default()),
    }
}

/// A list, and the version from which a watch continues it.
pub(super) struct DecodedList<T> {
    /// The version to watch from.
    pub(super) version: Option<String>,
    /// Each item, or what is known of an item that could not be read.
    pub(super) items: Vec<Result<T, Unreadable>>,
}

/// Decodes a list.
///
/// # Errors
/// [`ApiErrorKind::Decode`] when the body is not a list.
pub(super) fn decode_list<T: Watchable>(body: &[u8]) -> Result<DecodedList<T>, ApiError> {
    let attempt = || format!("list {}", T::KIND.resource());
    let bad = |text: String| ApiError::local(ApiErrorKind::Decode, attempt(), text);
    let list: List<'_> = serde_json::from_slice(body)
        .map_err(|error| bad(format!("the list could not be read: {error}")).with_source(error))?;
    let version = list.metadata["resourceVersion"].as_str().map(str::to_owned);
    match list.items.map(|items| serde_json::from_str::<Vec<&RawValue>>(items.get())) {
        Some(Ok(items)) if items.len() > MOST_WATCHED => {
            Err(bad(format!("the list has more than {MOST_WATCHED} objects")))
        }
        Some(Ok(items)) => Ok(DecodedList {
            version,
            items: items.into_iter().map(|item| decode_object(item.get())).collect(),
        }),
        // A list without items may be empty, but it has a version.
        None if version.is_some() => Ok(DecodedList { version, items: Vec::new() }),
        Some(Err(_)) | None => Err(bad("the answer is no list".to_owned())),
    }
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(default)]
    metadata: Value,
    #[serde(borrow)]
    items: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unreadable_object_names_its_job_where_json_shows_it() {
        let line = |json: Value| json.to_string().into_bytes();
        let bad = json!({"type": "MODIFIED", "object": {"metadata": {"name": "p",
            "ownerReferences": [{"kind": "Job", "name": "j"}]}, "status": 7}});
        let unreadable = decode_line::<Pod>(&line(bad)).err();
        assert_eq!(unreadable, Some(Unreadable { job: Some("j".into()), name: Some("p".into()) }));
        let bad = json!({"type": "ADDED", "object": {"metadata": {"name": 7, "labels": "none"}}});
        assert_eq!(decode_line::<Pod>(&line(bad)).err(), Some(Unreadable::default()));
        for broken in [&b"{\"type\":\"ADDED\",\"obj"[..], b"[]", b"7", b"{\"kind\":\"JobList\"}"] {
            assert_eq!(decode_line::<Job>(broken).err(), Some(Unreadable::default()));
        }
    }

    #[test]
    fn list_of_too_many_objects_is_an_error() {
        let list = |count: usize| {
            let items = vec!["{}"; count].join(",");
            let body = format!(r#"{{"metadata":{{"resourceVersion":"9"}},"items":[{items}]}}"#);
            decode_list::<Pod>(body.as_bytes()).map(|list| list.items.len()).map_err(|error| error.message)
        };
        assert_eq!(list(MOST_WATCHED), Ok(MOST_WATCHED));
        assert_eq!(list(MOST_WATCHED + 1), Err("the list has more than 20000 objects".to_owned()));
    }

    #[test]
    fn error_event_becomes_a_typed_error() {
        let line = br#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
        let Ok(WatchEvent::Failed(error)) = decode_line::<Job>(line) else { panic!("an error") };
        assert_eq!((error.kind, error.message.as_str()), (ApiErrorKind::Expired, "too old"));
    }

    #[test]
    fn unreadable_list_item_hides_no_other() {
        let body = json!({"metadata": {"resourceVersion": "9"}, "items": [
            {"metadata": {"name": "a"}}, {"metadata": {"name": "b"}, "status": "x"}, {"metadata": {"name": "c"}},
        ]});
        let list = decode_list::<Job>(body.to_string().as_bytes()).expect("a list");
        assert_eq!(list.version.as_deref(), Some("9"));
        let names: Vec<_> = list
            .items
            .iter()
            .map(|item| match item {
                Ok(job) => Ok(job.metadata.name.as_deref()),
                Err(bad) => Err(bad.name.as_deref()),
            })
            .collect();
        assert_eq!(names, [Ok(Some("a")), Err(Some("b")), Ok(Some("c"))]);
        assert!(decode_list::<Job>(b"{\"kind\":\"Status\"}").is_err());
        for broken in [&b"<html>"[..], b"[]", b"7", b"{\"items\":7}"] {
            assert!(decode_list::<Job>(broken).is_err());
        }
    }
}
