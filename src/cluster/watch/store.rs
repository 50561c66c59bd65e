//! What is known of the objects of a namespace, and who is told about them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::event::{Unreadable, Watchable, job_of_pod};
use super::{Health, Seen, Snapshot};

#[derive(Default)]
pub(super) struct State {
    pub(super) running: bool,
    pub(super) refused_until: Option<Instant>,
    feeds: HashMap<String, Vec<Feed>>,
    next_feed: u64,
    jobs: Store<Job>,
    pods: Store<Pod>,
}

/// The sending end of a subscription.
pub(super) struct Feed {
    id: u64,
    uid: Option<String>,
    view: watch::Sender<Snapshot>,
}

impl Feed {
    fn is_for(&self, uid: Option<&str>) -> bool {
        match (&self.uid, uid) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        }
    }
}

/// The objects of one kind that are there.
pub(super) struct Store<T> {
    objects: HashMap<String, Arc<T>>,
    /// Everything up to this version is known.
    pub(super) version: Option<String>,
    /// Nothing was ever received: there is nothing to compare a list with.
    pub(super) fresh: bool,
    health: Health,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { objects: HashMap::new(), version: None, fresh: true, health: Health::Starting }
    }
}

/// Where the objects of a kind are kept, and who is told about them.
pub(super) trait Kept: Watchable {
    fn store(state: &mut State) -> &mut Store<Self>;
    /// Tells those whom it concerns.
    fn tell(feeds: &HashMap<String, Vec<Feed>>, sight: &Seen<Self>);
}

impl Kept for Job {
    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.jobs
    }

    fn tell(feeds: &HashMap<String, Vec<Feed>>, sight: &Seen<Self>) {
        let Some(job) = sight.last() else { return };
        let name = job.metadata.name.as_deref().unwrap_or_default();
        for feed in
            feeds.get(name).into_iter().flatten().filter(|feed| feed.is_for(job.metadata.uid.as_deref()))
        {
            feed.view.send_modify(|view| {
                view.job = sight.clone();
                view.job_events += 1;
            });
        }
    }
}

impl Kept for Pod {
    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.pods
    }

    fn tell(feeds: &HashMap<String, Vec<Feed>>, sight: &Seen<Self>) {
        let Some(pod) = sight.last() else { return };
        let (Some(name), Some((job, uid))) = (&pod.metadata.name, job_of_pod(pod)) else { return };
        for feed in feeds.get(job).into_iter().flatten().filter(|feed| feed.is_for(uid)) {
            feed.view.send_modify(|view| drop(view.pods.insert(name.clone(), sight.clone())));
        }
    }
}

impl State {
    /// How many subscriptions there are.
    pub(super) fn users(&self) -> usize {
        self.feeds.values().map(Vec::len).sum()
    }

    /// Knows nothing yet.
    pub(super) fn begin(&mut self) {
        self.jobs = Store::default();
        self.pods = Store::default();
        self.tell_health();
    }

    /// Lets go of the objects; what subscriptions have seen stays with them.
    pub(super) fn end(&mut self) {
        self.jobs.objects = HashMap::new();
        self.pods.objects = HashMap::new();
    }

    /// Adds a subscription.
    pub(super) fn enter(&mut self, job: &str, uid: Option<&str>) -> (u64, watch::Receiver<Snapshot>) {
        self.next_feed += 1;
        let id = self.next_feed;
        let view = watch::Sender::new(Snapshot { health: self.health(), ..Snapshot::default() });
        let receiver = view.subscribe();
        let feed = Feed { id, uid: uid.map(str::to_owned), view };
        // What was told before is told again, to this one alone.
        let alone = HashMap::from([(job.to_owned(), vec![feed])]);
        if let Some(known) = self.jobs.objects.get(job) {
            Job::tell(&alone, &Seen::Present(known.clone()));
        }
        for pod in self.pods.objects.values() {
            Pod::tell(&alone, &Seen::Present(pod.clone()));
        }
        for (job, feeds) in alone {
            self.feeds.entry(job).or_default().extend(feeds);
        }
        (id, receiver)
    }

    /// Ends a subscription.
    pub(super) fn leave(&mut self, job: &str, id: u64) {
        if let Some(feeds) = self.feeds.get_mut(job) {
            feeds.retain(|feed| feed.id != id);
            if feeds.is_empty() {
                self.feeds.remove(job);
            }
        }
    }

    fn health(&self) -> Health {
        self.jobs.health.max(self.pods.health)
    }

    pub(super) fn set_health<T: Kept>(&mut self, health: Health) {
        T::store(self).health = health;
        self.tell_health();
    }

    fn tell_health(&self) {
        let health = self.health();
        for feed in self.feeds.values().flatten() {
            feed.view.send_if_modified(|view| std::mem::replace(&mut view.health, health) != health);
        }
    }

    pub(super) fn applied<T: Kept>(&mut self, object: T) {
        let Some(name) = object.meta().name.clone() else { return };
        let new = Arc::new(object);
        let old = T::store(self).objects.insert(name, new.clone());
        if let Some(old) = old {
            let (was, is) = (old.meta(), new.meta());
            if was.uid != is.uid {
                T::tell(&self.feeds, &Seen::Deleted(old));
            } else if is.resource_version.is_some() && was.resource_version == is.resource_version {
                return;
            }
        }
        T::tell(&self.feeds, &Seen::Present(new));
    }

    pub(super) fn deleted<T: Kept>(&mut self, object: T) {
        let objects = &mut T::store(self).objects;
        let name = object.meta().name.as_deref().unwrap_or_default();
        // Another one may have taken the name by now.
        if objects.get(name).is_some_and(|known| known.meta().uid == object.meta().uid) {
            objects.remove(name);
        }
        T::tell(&self.feeds, &Seen::Deleted(Arc::new(object)));
    }

    pub(super) fn unreadable(&mut self, what: &Unreadable) {
        for feed in what.job.iter().filter_map(|job| self.feeds.get(job)).flatten() {
            feed.view.send_modify(|view| view.unreadable += 1);
        }
    }

    /// Takes a list for the truth: what is not on it is gone.
    pub(super) fn listed<T: Kept>(&mut self, items: Vec<Result<T, Unreadable>>, version: Option<String>) {
        let mut there = HashSet::new();
        let mut all_named = true;
        for item in items {
            let name = match &item {
                Ok(object) => object.meta().name.clone(),
                Err(bad) => bad.name.clone(),
            };
            all_named &= name.is_some();
            there.extend(name);
            match item {
                Ok(object) => self.applied(object),
                Err(bad) => self.unreadable(&bad),
            }
        }
        // An item without a readable name may be any of those that seem to be missing.
        if all_named {
            let gone: Vec<Arc<T>> = T::store(self)
                .objects
                .extract_if(|name, _| !there.contains(name))
                .map(|(_, gone)| gone)
                .collect();
            for object in gone {
                T::tell(&self.feeds, &Seen::Deleted(object));
            }
        }
        let store = T::store(self);
        store.version = version;
        store.fresh = false;
    }
}
