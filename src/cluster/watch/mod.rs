//! What all runs of this process see of their Jobs and pods: one watch for Jobs and one for Pods per cluster and
//! namespace, shared.
//!
//! A watch starts with the first subscription and stops soon after the last. Each subscription is for one Job:
//! it gets the last object seen of the Job and of its pods, so that a deletion is told with its final object.
//! Nothing here ends because of one bad object, a panic, an expired version or a lost connection; where watching
//! is not permitted, that is told, and whoever subscribed must look for himself.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use self::area::Area;
use super::Cluster;

mod area;
mod store;
#[cfg(test)]
mod tests;

/// How well the watches of a namespace work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Health {
    /// Both are open, or about to be again.
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
pub enum Seen<T> {
    /// Nothing.
    #[default]
    Unseen,
    /// It is there.
    Present(Arc<T>),
    /// It was deleted; as it was last.
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
    /// The object as it was seen last, there or not.
    pub fn last(&self) -> Option<&Arc<T>> {
        match self {
            Seen::Unseen => None,
            Seen::Present(object) | Seen::Deleted(object) => Some(object),
        }
    }
}

/// Everything a subscription has seen.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// How well the watches work.
    pub health: Health,
    /// The Job.
    pub job: Seen<Job>,
    /// How many events there were for the Job.
    pub job_events: u64,
    /// Its pods, by name.
    pub pods: BTreeMap<String, Seen<Pod>>,
    /// How many events of the Job or its pods could not be read: somebody should look.
    pub unreadable: u64,
}

impl Snapshot {
    /// The pod that is there, the first by name if there are several.
    pub fn pod(&self) -> Option<&Arc<Pod>> {
        self.pods.values().find_map(|sight| match sight {
            Seen::Present(pod) => Some(pod),
            _ => None,
        })
    }

    /// The pod of this name as it was seen last; without one of this name, any other.
    pub fn last_pod(&self, name: &str) -> Option<&Arc<Pod>> {
        let named = self.pods.get(name).and_then(Seen::last);
        named.or_else(|| self.pod()).or_else(|| self.pods.values().rev().find_map(Seen::last))
    }
}

/// The address of a cluster's client, and a namespace.
type AreaKey = (usize, String);

/// All watches of this process.
pub struct Watches<C> {
    selector: String,
    areas: Mutex<HashMap<AreaKey, Arc<Area<C>>>>,
    /// Clusters for which a refusal was told. Weak: the address is not used again while it is on this list.
    told: Mutex<Vec<Weak<C>>>,
}

impl<C: Cluster> Watches<C> {
    /// No watches yet; all will have this label selector.
    pub fn new(selector: impl Into<String>) -> Self {
        Self { selector: selector.into(), areas: Mutex::default(), told: Mutex::default() }
    }

    /// Subscribes to one Job and its pods; starts the watches where they do not run. Only the Job with this UID
    /// is told, when there is one: a name is not an identity.
    pub fn subscribe(
        &self,
        cluster: &Arc<C>,
        namespace: &str,
        job: &str,
        uid: Option<&str>,
    ) -> Subscription<C> {
        let area = {
            let mut areas = lock(&self.areas);
            areas.retain(|_, area| area.is_needed());
            // The area holds the cluster, so that its address stays its own.
            let key = (Arc::as_ptr(cluster).cast::<()>() as usize, namespace.to_owned());
            areas.entry(key).or_insert_with(|| Arc::new(Area::new(cluster.clone(), namespace))).clone()
        };
        let (id, view) = area.enter(&self.selector, job, uid);
        Subscription { area, job: job.to_owned(), id, view }
    }

    /// How many namespaces are watched, and how many subscriptions there are.
    pub fn count(&self) -> (usize, usize) {
        let areas = lock(&self.areas);
        let states = areas.values().map(|area| area.lock());
        states.fold((0, 0), |(watched, users), state| {
            (watched + usize::from(state.running), users + state.users())
        })
    }

    /// True the first time this is asked for a cluster: a refusal is told once.
    pub fn tell_refusal(&self, cluster: &Arc<C>) -> bool {
        let mut told = lock(&self.told);
        told.retain(|known| known.strong_count() > 0);
        let known = told.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(cluster)));
        if !known {
            told.push(Arc::downgrade(cluster));
        }
        !known
    }
}

/// A hold on the watches, and what they bring for one Job.
pub struct Subscription<C> {
    area: Arc<Area<C>>,
    job: String,
    id: u64,
    view: watch::Receiver<Snapshot>,
}

impl<C> Subscription<C> {
    /// What was seen so far.
    pub fn view(&self) -> Snapshot {
        self.view.borrow().clone()
    }

    /// How well the watches work now.
    pub fn health(&self) -> Health {
        self.view.borrow().health
    }

    /// What was seen so far, and a notice of every change.
    pub fn follow(&self) -> watch::Receiver<Snapshot> {
        self.view.clone()
    }

    /// To be called when something was found out elsewhere that the watches should have told: they are opened
    /// anew, unless they have only just been.
    pub fn request_resync(&self) {
        self.area.doubts.send_modify(|doubts| *doubts += 1);
    }
}

impl<C> Drop for Subscription<C> {
    fn drop(&mut self) {
        let mut state = self.area.lock();
        state.leave(&self.job, self.id);
        // Under the lock, or another count could overtake this one.
        self.area.users.send_replace(state.users());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
