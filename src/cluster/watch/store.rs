//! The objects of a namespace as the watches last brought them, and the subscribers that are notified of changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use super::decode::{Unreadable, Watchable, job_of_pod};
use super::{Health, Seen, Snapshot};

/// Everything that is known of a namespace.
#[derive(Default)]
pub(super) struct NamespaceState {
    /// Whether the watches run.
    pub(super) running: bool,
    /// Until when the watches are not tried again.
    pub(super) refused_until: Option<Instant>,
    subscribers: Subscribers,
    last_id: u64,
    jobs: Store<Job>,
    pods: Store<Pod>,
}

/// The subscribers, by the name of their Job.
type Subscribers = HashMap<String, Vec<Subscriber>>;

/// The sending end of a subscription.
pub(super) struct Subscriber {
    id: u64,
    /// Only the Job with this UID, where it is known.
    uid: Option<String>,
    snapshot: watch::Sender<Snapshot>,
}

impl Subscriber {
    /// Whether a Job with this UID, or the pod that it owns, concerns the subscriber. A pod without an owner has none: its
    /// labels may be copied.
    fn is_for(&self, uid: Option<&str>) -> bool {
        self.uid.as_deref().is_none_or(|ours| uid == Some(ours))
    }

    /// Whether the subscriber has seen this very pod, as the Job's. Where a Job is deleted as an orphan its pod works on,
    /// and has no owner any more.
    fn knows(&self, pod: &Pod) -> bool {
        let snapshot = self.snapshot.borrow();
        let known = pod.metadata.name.as_ref().and_then(|name| snapshot.pods.get(name)?.last());
        known.is_some_and(|known| known.metadata.uid.is_some() && known.metadata.uid == pod.metadata.uid)
    }
}

/// The objects of one kind that exist.
pub(super) struct Store<T> {
    objects: HashMap<String, Arc<T>>,
    /// Every change up to this version was received.
    pub(super) version: Option<String>,
    /// Nothing was received yet: there is nothing to compare a list with.
    pub(super) fresh: bool,
    health: Health,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { objects: HashMap::new(), version: None, fresh: true, health: Health::Starting }
    }
}

impl<T> Store<T> {
    /// The number of objects that exist.
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }
}

/// A kind of object that has a store.
pub(super) trait Stored: Watchable {
    fn store(state: &mut NamespaceState) -> &mut Store<Self>;
    /// Notifies the subscribers that an object concerns.
    fn notify(subscribers: &Subscribers, seen: &Seen<Self>);
}

impl Stored for Job {
    fn store(state: &mut NamespaceState) -> &mut Store<Self> {
        &mut state.jobs
    }

    fn notify(subscribers: &Subscribers, seen: &Seen<Self>) {
        let Some(job) = seen.last() else { return };
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let uid = job.metadata.uid.as_deref();
        for subscriber in subscribers.get(name).into_iter().flatten().filter(|one| one.is_for(uid)) {
            subscriber.snapshot.send_modify(|snapshot| {
                snapshot.job = seen.clone();
                snapshot.job_events += 1;
            });
        }
    }
}

impl Stored for Pod {
    fn store(state: &mut NamespaceState) -> &mut Store<Self> {
        &mut state.pods
    }

    fn notify(subscribers: &Subscribers, seen: &Seen<Self>) {
        let Some(pod) = seen.last() else { return };
        let (Some(name), Some((job, uid))) = (&pod.metadata.name, job_of_pod(pod)) else { return };
        let concerned = |one: &&Subscriber| one.is_for(uid) || one.knows(pod);
        for subscriber in subscribers.get(job).into_iter().flatten().filter(concerned) {
            subscriber.snapshot.send_modify(|snapshot| {
                snapshot.pods.insert(name.clone(), seen.clone());
                if pod.metadata.deletion_timestamp.is_some() {
                    snapshot.deleting.entry(name.clone()).or_insert_with(|| pod.clone());
                }
            });
        }
    }
}

impl NamespaceState {
    /// The number of subscriptions.
    pub(super) fn subscribers(&self) -> usize {
        self.subscribers.values().map(Vec::len).sum()
    }

    /// Forgets all objects, before the watches start.
    pub(super) fn reset(&mut self) {
        self.jobs = Store::default();
        self.pods = Store::default();
        self.notify_health();
    }

    /// Frees the objects; each subscription keeps its snapshot.
    pub(super) fn clear_objects(&mut self) {
        self.jobs.objects = HashMap::new();
        self.pods.objects = HashMap::new();
    }

    /// Adds a subscription.
    pub(super) fn subscribe(&mut self, job: &str, uid: Option<&str>) -> (u64, watch::Receiver<Snapshot>) {
        self.last_id += 1;
        let id = self.last_id;
        let snapshot = watch::Sender::new(Snapshot { health: self.health(), ..Snapshot::default() });
        let receiver = snapshot.subscribe();
        let subscriber = Subscriber { id, uid: uid.map(str::to_owned), snapshot };
        // The new subscriber alone is notified of what is known already.
        let alone = HashMap::from([(job.to_owned(), vec![subscriber])]);
        if let Some(known) = self.jobs.objects.get(job) {
            Job::notify(&alone, &Seen::Present(known.clone()));
        }
        for pod in self.pods.objects.values() {
            Pod::notify(&alone, &Seen::Present(pod.clone()));
        }
        for (job, subscribers) in alone {
            self.subscribers.entry(job).or_default().extend(subscribers);
        }
        (id, receiver)
    }

    /// Ends a subscription.
    pub(super) fn unsubscribe(&mut self, job: &str, id: u64) {
        if let Some(subscribers) = self.subscribers.get_mut(job) {
            subscribers.retain(|subscriber| subscriber.id != id);
            if subscribers.is_empty() {
                self.subscribers.remove(job);
            }
        }
    }

    fn health(&self) -> Health {
        self.jobs.health.max(self.pods.health)
    }

    /// Sets the health of one kind's watch and returns what it was.
    pub(super) fn set_health<T: Stored>(&mut self, health: Health) -> Health {
        let before = std::mem::replace(&mut T::store(self).health, health);
        self.notify_health();
        before
    }

    fn notify_health(&self) {
        let health = self.health();
        for subscriber in self.subscribers.values().flatten() {
            subscriber
                .snapshot
                .send_if_modified(|snapshot| std::mem::replace(&mut snapshot.health, health) != health);
        }
    }

    /// An object was created or has changed.
    pub(super) fn applied<T: Stored>(&mut self, object: T) {
        let Some(name) = object.meta().name.clone() else { return };
        let new = Arc::new(object);
        let old = T::store(self).objects.insert(name, new.clone());
        if let Some(old) = old {
            let (was, is) = (old.meta(), new.meta());
            if was.uid != is.uid {
                T::notify(&self.subscribers, &Seen::Deleted(old));
            } else if is.resource_version.is_some() && was.resource_version == is.resource_version {
                return;
            }
        }
        T::notify(&self.subscribers, &Seen::Present(new));
    }

    /// An object was deleted; `object` is its last state.
    pub(super) fn deleted<T: Stored>(&mut self, object: T) {
        let objects = &mut T::store(self).objects;
        let name = object.meta().name.as_deref().unwrap_or_default();
        // Another object may have taken the name by now.
        if objects.get(name).is_some_and(|known| known.meta().uid == object.meta().uid) {
            objects.remove(name);
        }
        T::notify(&self.subscribers, &Seen::Deleted(Arc::new(object)));
    }

    /// An object could not be read: its subscribers must read it themselves.
    pub(super) fn unreadable(&mut self, object: &Unreadable) {
        for subscriber in object.job.iter().filter_map(|job| self.subscribers.get(job)).flatten() {
            subscriber.snapshot.send_modify(|snapshot| snapshot.unreadable += 1);
        }
    }

    /// Applies a whole list: an object that is not on it was deleted.
    pub(super) fn listed<T: Stored>(&mut self, items: Vec<Result<T, Unreadable>>, version: Option<String>) {
        let mut listed = HashSet::new();
        let mut all_named = true;
        for item in items {
            let name = match &item {
                Ok(object) => object.meta().name.clone(),
                Err(unreadable) => unreadable.name.clone(),
            };
            all_named &= name.is_some();
            listed.extend(name);
            match item {
                Ok(object) => self.applied(object),
                Err(unreadable) => self.unreadable(&unreadable),
            }
        }
        // An item without a readable name may be any of the objects that seem to be missing.
        if all_named {
            let deleted: Vec<Arc<T>> = T::store(self)
                .objects
                .extract_if(|name, _| !listed.contains(name))
                .map(|(_, object)| object)
                .collect();
            for object in deleted {
                T::notify(&self.subscribers, &Seen::Deleted(object));
            }
        }
        let store = T::store(self);
        store.version = version;
        store.fresh = false;
    }
}
