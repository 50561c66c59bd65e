//! The object store: one global resourceVersion, a bounded history, and wake-ups for watchers.

use crate::kinds::Kind;
use crate::status::{ApiError, ApiResult};
use crate::util::{default, int_at, list_at, lock, str_at};
use bytes::Bytes;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock};
use tokio::sync::watch;

/// One version of an object. The value carries no `kind` and `apiVersion`.
#[derive(Debug)]
pub(crate) struct Object {
    /// Its resource type.
    pub kind: &'static Kind,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// UID of the owner that controls it; empty when there is none.
    pub controller: String,
    /// The version number.
    pub version: u64,
    /// The object itself.
    pub value: Value,
    item: OnceLock<Bytes>,
    full: OnceLock<Bytes>,
}

impl Object {
    fn new(kind: &'static Kind, version: u64, mut value: Value) -> Self {
        value["metadata"]["resourceVersion"] = version.to_string().into();
        Object {
            kind,
            namespace: str_at(&value, "/metadata/namespace").to_string(),
            name: str_at(&value, "/metadata/name").to_string(),
            uid: str_at(&value, "/metadata/uid").to_string(),
            controller: list_at(&value, "/metadata/ownerReferences")
                .iter()
                .find(|r| r["controller"] == true)
                .map_or("", |r| str_at(r, "/uid"))
                .to_string(),
            version,
            value,
            item: OnceLock::new(),
            full: OnceLock::new(),
        }
    }

    /// JSON as a list item: without `kind` and `apiVersion`.
    pub(crate) fn item_json(&self) -> Bytes {
        self.item.get_or_init(|| self.value.to_string().into()).clone()
    }

    /// JSON as a stand-alone object.
    pub(crate) fn full_json(&self) -> Bytes {
        self.full
            .get_or_init(|| {
                let item = self.item_json();
                let mut out = format!(
                    "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",",
                    self.kind.kind,
                    self.kind.api_version()
                )
                .into_bytes();
                out.extend_from_slice(&item[1..]);
                out.into()
            })
            .clone()
    }

    /// The stand-alone object as a value.
    pub(crate) fn full(&self) -> Value {
        let mut v = self.value.clone();
        v["kind"] = self.kind.kind.into();
        v["apiVersion"] = self.kind.api_version().into();
        v
    }

    /// Whether deletion has begun.
    pub(crate) fn deleting(&self) -> bool {
        !str_at(&self.value, "/metadata/deletionTimestamp").is_empty()
    }
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It appeared.
    Added,
    /// It changed.
    Modified,
    /// It is gone; the event carries its final state.
    Deleted,
}

/// One entry of the history.
#[derive(Debug)]
pub(crate) struct Event {
    /// What happened.
    pub change: Change,
    /// The object afterwards.
    pub object: Arc<Object>,
    /// The object before, if there was one.
    pub before: Option<Arc<Object>>,
}

type Key = (String, String);

#[derive(Default)]
struct Inner {
    version: u64,
    objects: HashMap<&'static str, BTreeMap<Key, Arc<Object>>>,
    // The dependents of an owner, by its UID: the Job controller reads the pods of each Job often.
    owned: HashMap<String, BTreeSet<(&'static str, Key)>>,
    history: VecDeque<Arc<Event>>,
    // Oldest version a new watch may start from.
    compacted: u64,
    // Oldest version after which no event was forgotten.
    floor: u64,
}

/// The store.
pub(crate) struct Store {
    inner: Mutex<Inner>,
    head: watch::Sender<u64>,
    /// What has been told in Events.
    pub(crate) recorder: crate::events::Recorder,
}

const HISTORY_LIMIT: usize = 10_000;

impl Default for Store {
    fn default() -> Self {
        Store {
            inner: Mutex::new(Inner { version: 1000, compacted: 1000, floor: 1000, ..Inner::default() }),
            head: watch::channel(1000).0,
            recorder: crate::events::Recorder::default(),
        }
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_string(), name.to_string())
}

/// The UIDs of an object's owners.
fn owners(object: &Object) -> impl Iterator<Item = &str> {
    list_at(&object.value, "/metadata/ownerReferences").iter().filter_map(|owner| owner["uid"].as_str())
}

impl Inner {
    fn push(&mut self, change: Change, object: Arc<Object>, before: Option<Arc<Object>>) {
        let slot = self.objects.entry(object.kind.plural).or_default();
        let at = key(&object.namespace, &object.name);
        let replaced = if change == Change::Deleted {
            slot.remove(&at)
        } else {
            slot.insert(at.clone(), object.clone())
        };
        let place = (object.kind.plural, at);
        for uid in replaced.iter().flat_map(|old| owners(old)) {
            if let Some(places) = self.owned.get_mut(uid) {
                places.remove(&place);
                if places.is_empty() {
                    self.owned.remove(uid);
                }
            }
        }
        if change != Change::Deleted {
            for uid in owners(&object) {
                self.owned.entry(uid.to_string()).or_default().insert(place.clone());
            }
        }
        self.history.push_back(Arc::new(Event { change, object, before }));
        while self.history.len() > HISTORY_LIMIT {
            if let Some(old) = self.history.pop_front() {
                self.compacted = self.compacted.max(old.object.version);
                self.floor = old.object.version;
            }
        }
    }

    fn find(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.objects.get(kind.plural)?.get(&key(namespace, name)).cloned()
    }
}

impl Store {
    /// Receives the newest resourceVersion after each change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// The newest resourceVersion.
    pub(crate) fn version(&self) -> u64 {
        lock(&self.inner).version
    }

    /// The oldest version a watch may start from.
    pub(crate) fn compacted(&self) -> u64 {
        lock(&self.inner).compacted
    }

    /// Forgets the history. Watchers that have seen everything do not notice.
    pub(crate) fn compact(&self) {
        let mut inner = lock(&self.inner);
        inner.history.clear();
        inner.floor = inner.version;
        inner.version += 1;
        inner.compacted = inner.version;
        let version = inner.version;
        drop(inner);
        self.head.send_replace(version);
    }

    /// Stores a new object, giving it a UID, a creation time and a version.
    pub(crate) fn create(&self, kind: &'static Kind, mut value: Value) -> ApiResult<Arc<Object>> {
        crate::util::remove(&mut value, "kind");
        crate::util::remove(&mut value, "apiVersion");
        let name = str_at(&value, "/metadata/name").to_string();
        let namespace = str_at(&value, "/metadata/namespace").to_string();
        let meta = crate::util::obj(&mut value, "metadata");
        default(meta, "uid", crate::util::uuid());
        default(meta, "creationTimestamp", crate::time::now());
        let mut inner = lock(&self.inner);
        if inner.find(kind, &namespace, &name).is_some() {
            return Err(ApiError::already_exists(kind, &name));
        }
        inner.version += 1;
        let object = Arc::new(Object::new(kind, inner.version, value));
        inner.push(Change::Added, object.clone(), None);
        drop(inner);
        self.head.send_replace(object.version);
        Ok(object)
    }

    /// The object of that name.
    pub(crate) fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Object>> {
        lock(&self.inner).find(kind, namespace, name)
    }

    /// All objects of a kind, of one namespace if given, in order, and the version of the list.
    pub(crate) fn list(&self, kind: &Kind, namespace: Option<&str>) -> (Vec<Arc<Object>>, u64) {
        let inner = lock(&self.inner);
        let all = inner.objects.get(kind.plural);
        let list = match (all, namespace) {
            (None, _) => Vec::new(),
            (Some(map), None) => map.values().cloned().collect(),
            (Some(map), Some(ns)) => {
                map.range(key(ns, "")..).take_while(|((n, _), _)| n == ns).map(|(_, o)| o.clone()).collect()
            }
        };
        (list, inner.version)
    }

    /// All objects that name this UID among their owners.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<Arc<Object>> {
        let inner = lock(&self.inner);
        let places = inner.owned.get(uid).into_iter().flatten();
        places.filter_map(|(plural, at)| inner.objects.get(plural)?.get(at).cloned()).collect()
    }

    /// Changes an object. No change, no new version. Ends a deletion whose last finalizer went away.
    pub(crate) fn update<T>(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value, &Object) -> ApiResult<T>,
    ) -> ApiResult<(Arc<Object>, T)> {
        let mut inner = lock(&self.inner);
        let old = inner.find(kind, namespace, name).ok_or_else(|| ApiError::not_found(kind, name))?;
        let mut value = old.value.clone();
        let result = change(&mut value, &old)?;
        value["metadata"]["resourceVersion"] = old.version.to_string().into();
        let ended = !str_at(&value, "/metadata/deletionTimestamp").is_empty()
            && list_at(&value, "/metadata/finalizers").is_empty()
            && int_at(&value, "/metadata/deletionGracePeriodSeconds").unwrap_or(0) == 0;
        if value == old.value && !ended {
            return Ok((old, result));
        }
        let mut last = old.clone();
        // What ends with its last finalizer is last seen with it; what ends at once is seen being deleted first.
        let let_go =
            ended && old.deleting() && value["metadata"]["finalizers"] != old.value["metadata"]["finalizers"];
        if !let_go {
            inner.version += 1;
            last = Arc::new(Object::new(kind, inner.version, value));
            inner.push(Change::Modified, last.clone(), Some(old));
        }
        if ended {
            inner.version += 1;
            let gone = Arc::new(Object::new(kind, inner.version, last.value.clone()));
            inner.push(Change::Deleted, gone.clone(), Some(last));
            last = gone;
        }
        let object = last;
        drop(inner);
        self.head.send_replace(object.version);
        Ok((object, result))
    }

    /// Removes an object at once, if it is still the one with that UID.
    pub(crate) fn remove(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> Option<Arc<Object>> {
        let mut inner = lock(&self.inner);
        let old = inner.find(kind, namespace, name)?;
        if uid.is_some_and(|u| u != old.uid) {
            return None;
        }
        inner.version += 1;
        let object = Arc::new(Object::new(kind, inner.version, old.value.clone()));
        inner.push(Change::Deleted, object.clone(), Some(old));
        drop(inner);
        self.head.send_replace(object.version);
        Some(object)
    }

    /// History after a version, of one kind if given; `None` when part of it is gone.
    pub(crate) fn since(&self, version: u64, kind: Option<&Kind>) -> Option<(Vec<Arc<Event>>, u64)> {
        let inner = lock(&self.inner);
        if version < inner.floor {
            return None;
        }
        let from = inner.history.partition_point(|e| e.object.version <= version);
        let events = inner
            .history
            .range(from..)
            .filter(|e| kind.is_none_or(|k| e.object.kind == k))
            .cloned()
            .collect();
        Some((events, inner.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::SECRET;
    use serde_json::json;

    fn secret(name: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "n"}})
    }

    #[test]
    fn history_is_kept_until_it_is_compacted() {
        let s = Store::default();
        let start = s.version();
        let a = s.create(&SECRET, secret("a")).expect("created");
        assert!(s.create(&SECRET, secret("a")).is_err());
        let same = s.update(&SECRET, "n", "a", |_, _| Ok(())).expect("same").0;
        assert_eq!(same.version, a.version);
        s.update(&SECRET, "n", "a", |v, _| {
            v["data"] = json!({});
            Ok(())
        })
        .expect("changed");
        assert!(s.remove(&SECRET, "n", "a", Some("other")).is_none());
        s.remove(&SECRET, "n", "a", Some(&a.uid)).expect("removed");
        let (events, _) = s.since(start, None).expect("kept");
        let seen: Vec<_> = events.iter().map(|e| e.change).collect();
        assert_eq!(seen, [Change::Added, Change::Modified, Change::Deleted]);
        let before = s.version();
        s.compact();
        assert!(s.since(start, None).is_none());
        assert!(s.since(before, None).is_some());
        assert!(s.compacted() > before);
        assert!(s.since(s.version(), None).is_some());
    }

    #[test]
    fn last_finalizer_ends_deletion() {
        let s = Store::default();
        let mut v = secret("a");
        v["metadata"]["finalizers"] = json!(["x"]);
        v["metadata"]["deletionTimestamp"] = json!("now");
        s.create(&SECRET, v).expect("created");
        s.update(&SECRET, "n", "a", |v, _| {
            v["metadata"]["finalizers"] = json!([]);
            Ok(())
        })
        .expect("updated");
        assert!(s.get(&SECRET, "n", "a").is_none());
    }
}
