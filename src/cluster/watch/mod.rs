//! One watch for Jobs and one for Pods per cluster and namespace, shared by all runs of this process.
//!
//! The watches of a namespace ([`namespace`]) start with the first subscription and stop soon after the last. A
//! subscription is for one Job: its snapshot holds the Job and its pods as they were last seen, also after their
//! deletion. No bad object, panic, expired version or lost connection ends a watch ([`watcher`]); where watching is
//! not permitted, the snapshot's health says so and the subscriber must poll.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use self::namespace::NamespaceWatch;
use super::Cluster;

mod decode;
mod namespace;
mod store;
#[cfg(test)]
mod tests;
mod watcher;

/// How well the watches of a namespace work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Health {
    /// Both are open, or about to be opened again.
    Live,
    /// Not open yet.
    #[default]
    Starting,
    /// They cannot be opened at the moment.
    Broken,
    /// They are not permitted.
    Refused,
}

/// What was last seen of an object.
#[derive(Debug, Default)]
pub(crate) enum Seen<T> {
    /// Not seen yet.
    #[default]
    Unseen,
    /// It exists.
    Present(Arc<T>),
    /// It was deleted; its last state.
    Deleted(Arc<T>),
}

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        match self {
            Seen::Unseen => Seen::Unseen,
            Seen::Present(object) => Seen::Present(object.clone()),
            Seen::Deleted(object) => Seen::Deleted(object.clone()),
        }
    }
}

impl<T> Seen<T> {
    /// The object as it was last seen, deleted or not.
    pub(crate) fn last(&self) -> Option<&Arc<T>> {
        match self {
            Seen::Unseen => None,
            Seen::Present(object) | Seen::Deleted(object) => Some(object),
        }
    }
}

/// Everything a subscription has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// How well the watches work.
    pub health: Health,
    /// The Job.
    pub job: Seen<Job>,
    /// The number of the Job's events.
    pub job_events: u64,
    /// Its pods, by name.
    pub pods: BTreeMap<String, Seen<Pod>>,
    /// Of each pod whose deletion was requested the first object that shows it, by name. The kubelet's own deletion
    /// rewrites the time later.
    pub deleting: BTreeMap<String, Arc<Pod>>,
    /// The number of events of the Job or its pods that could not be read. Each is a reason to read the objects
    /// directly.
    pub unreadable: u64,
}

impl Snapshot {
    /// The pod that exists, the first by name if there are several.
    pub(crate) fn pod(&self) -> Option<&Arc<Pod>> {
        self.pods.values().find_map(|seen| match seen {
            Seen::Present(pod) => Some(pod),
            _ => None,
        })
    }

    /// The pod of this name as it was last seen, or any other pod.
    pub(crate) fn last_pod(&self, name: &str) -> Option<&Arc<Pod>> {
        let named = self.pods.get(name).and_then(Seen::last);
        named.or_else(|| self.pod()).or_else(|| self.pods.values().rev().find_map(Seen::last))
    }
}

/// The address of a cluster's client, and a namespace.
type NamespaceKey = (usize, String);

/// All watches of this process.
pub(crate) struct Watches<C> {
    selector: String,
    namespaces: Mutex<HashMap<NamespaceKey, Arc<NamespaceWatch<C>>>>,
    /// Clusters whose refusal was reported. Weak: an address is not reused while it is on this list.
    refusals: Mutex<Vec<Weak<C>>>,
}

impl<C: Cluster> Watches<C> {
    /// No watches yet; all will use this label selector.
    pub(crate) fn new(selector: impl Into<String>) -> Self {
        Self { selector: selector.into(), namespaces: Mutex::default(), refusals: Mutex::default() }
    }

    /// Subscribes to one Job and its pods; starts the watches where they do not run. With a UID, only the Job with
    /// that UID counts: a name can be used again.
    pub(crate) fn subscribe(
        &self,
        cluster: &Arc<C>,
        namespace: &str,
        job: &str,
        uid: Option<&str>,
    ) -> Subscription<C> {
        let watch = {
            let mut namespaces = lock(&self.namespaces);
            namespaces.retain(|_, watch| watch.is_needed());
            // The entry holds the cluster, so its address is not reused while the entry exists.
            let key = (Arc::as_ptr(cluster).cast::<()>() as usize, namespace.to_owned());
            let new = || Arc::new(NamespaceWatch::new(cluster.clone(), namespace));
            namespaces.entry(key).or_insert_with(new).clone()
        };
        let (id, snapshot) = watch.subscribe(&self.selector, job, uid);
        Subscription { watch, job: job.to_owned(), id, snapshot }
    }

    /// The number of watched namespaces, and of subscriptions.
    pub(crate) fn count(&self) -> (usize, usize) {
        let namespaces = lock(&self.namespaces);
        let states = namespaces.values().map(|watch| watch.lock());
        states.fold((0, 0), |(watched, subscribers), state| {
            (watched + usize::from(state.running), subscribers + state.subscribers())
        })
    }

    /// True on the first call for a cluster: a refusal is logged once.
    pub(crate) fn is_first_refusal(&self, cluster: &Arc<C>) -> bool {
        let mut refusals = lock(&self.refusals);
        refusals.retain(|known| known.strong_count() > 0);
        let known = refusals.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(cluster)));
        if !known {
            refusals.push(Arc::downgrade(cluster));
        }
        !known
    }
}

/// Keeps the watches running, and holds what they bring for one Job.
pub(crate) struct Subscription<C> {
    watch: Arc<NamespaceWatch<C>>,
    job: String,
    id: u64,
    snapshot: watch::Receiver<Snapshot>,
}

impl<C> Subscription<C> {
    /// What was seen so far.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    /// How well the watches work now.
    pub(crate) fn health(&self) -> Health {
        self.snapshot.borrow().health
    }

    /// What was seen so far, with a notification of every change.
    pub(crate) fn changes(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.clone()
    }

    /// To be called when a direct read has found what the watches should have brought: they start over with a
    /// list, unless they were opened only just now.
    pub(crate) fn request_resync(&self) {
        self.watch.resync_requests.send_modify(|requests| *requests += 1);
    }
}

impl<C> Drop for Subscription<C> {
    fn drop(&mut self) {
        let mut state = self.watch.lock();
        state.unsubscribe(&self.job, self.id);
        // Under the lock, or another count could overtake this one.
        self.watch.subscribers.send_replace(state.subscribers());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
