//! What all runs of this process see of their Jobs and pods: one watch for Jobs and one for Pods per cluster and
//! namespace, shared.
//!
//! A watch starts with the first subscription and stops soon after the last. Each subscription is for one Job:
//! it gets the last object seen of the Job and of its pods, so that a deletion is told with its final object.
//! Nothing here ends because of one bad object, a panic, an expired version or a lost connection; where watching
//! is not permitted, that is told, and whoever subscribed must look for himself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use super::event::{Unreadable, WatchEvent, Watchable, job_of_pod, read_line, read_list};
use super::retry::{Backoff, jittered};
use super::{ApiError, ApiErrorKind, Cluster, WatchQuery};

/// When the server is to end a watch; load balancers drop idle connections at 240 s. Shortened by a random part.
const TIMEOUT: Duration = Duration::from_secs(180);
/// How much of [`TIMEOUT`] may be cut off at random.
const TIMEOUT_JITTER: f64 = 0.25;
/// A watch that brings nothing for its timeout and this is dead: even without changes there are bookmarks.
const SILENCE: Duration = Duration::from_secs(30);
/// First and longest pause before a watch is opened again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// A watch that lasted so long is opened again without a pause.
const SOUND: Duration = Duration::from_secs(5);
/// For how long watches go on without a subscription: runs often follow each other closely.
const LINGER: Duration = Duration::from_secs(10);
/// For how long a refusal is believed before the permission is tried again.
const REFUSAL: Duration = Duration::from_secs(600);

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
#[derive(Debug)]
pub enum Sight<T> {
    /// Nothing.
    Unseen,
    /// It is there.
    Present(Arc<T>),
    /// It was deleted; as it was last.
    Deleted(Arc<T>),
}

impl<T> Clone for Sight<T> {
    fn clone(&self) -> Self {
        match self {
            Sight::Unseen => Sight::Unseen,
            Sight::Present(object) => Sight::Present(object.clone()),
            Sight::Deleted(object) => Sight::Deleted(object.clone()),
        }
    }
}

impl<T> Default for Sight<T> {
    fn default() -> Self {
        Sight::Unseen
    }
}

impl<T> Sight<T> {
    /// The object as it was seen last, there or not.
    pub fn last(&self) -> Option<&Arc<T>> {
        match self {
            Sight::Unseen => None,
            Sight::Present(object) | Sight::Deleted(object) => Some(object),
        }
    }
}

/// Everything a subscription has seen.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// How well the watches work.
    pub health: Health,
    /// The Job.
    pub job: Sight<Job>,
    /// How many events there were for the Job.
    pub job_events: u64,
    /// Its pods, by name.
    pub pods: BTreeMap<String, Sight<Pod>>,
    /// How many events of the Job or its pods could not be read: somebody should look.
    pub unreadable: u64,
}

impl View {
    /// The pod that is there, the first by name if there are several.
    pub fn pod(&self) -> Option<&Arc<Pod>> {
        self.pods.values().find_map(|sight| match sight {
            Sight::Present(pod) => Some(pod),
            _ => None,
        })
    }

    /// The pod of this name as it was seen last; without one of this name, any other.
    pub fn last_pod(&self, name: &str) -> Option<&Arc<Pod>> {
        let named = self.pods.get(name).and_then(Sight::last);
        named.or_else(|| self.pod()).or_else(|| self.pods.values().rev().find_map(Sight::last))
    }
}

/// All watches of this process.
pub struct Watches<C> {
    selector: String,
    areas: Mutex<HashMap<(usize, String), Arc<Area<C>>>>,
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
    view: watch::Receiver<View>,
}

impl<C> Subscription<C> {
    /// What was seen so far.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// What was seen so far, and a notice of every change.
    pub fn follow(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// To be called when something was found out elsewhere that the watches should have told: they are opened
    /// anew.
    pub fn doubt(&self) {
        self.area.doubts.send_modify(|doubts| *doubts += 1);
    }
}

impl<C> Drop for Subscription<C> {
    fn drop(&mut self) {
        let mut state = self.area.lock();
        if let Some(feeds) = state.feeds.get_mut(&self.job) {
            feeds.retain(|feed| feed.id != self.id);
            if feeds.is_empty() {
                state.feeds.remove(&self.job);
            }
        }
        let left = state.feeds.values().map(Vec::len).sum();
        drop(state);
        self.area.users.send_replace(left);
    }
}

/// One namespace of one cluster.
struct Area<C> {
    cluster: Arc<C>,
    namespace: String,
    state: Mutex<State>,
    users: watch::Sender<usize>,
    doubts: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    running: bool,
    refused_until: Option<Instant>,
    feeds: HashMap<String, Vec<Feed>>,
    next_feed: u64,
    jobs: Store<Job>,
    pods: Store<Pod>,
}

/// The sending end of a subscription.
struct Feed {
    id: u64,
    uid: Option<String>,
    view: watch::Sender<View>,
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
struct Store<T> {
    objects: HashMap<String, Arc<T>>,
    /// Everything up to this version is known.
    version: Option<String>,
    /// Nothing was ever received: there is nothing to compare a list with.
    fresh: bool,
    health: Health,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { objects: HashMap::new(), version: None, fresh: true, health: Health::Starting }
    }
}

/// Where the objects of a kind are kept, and who is told about them.
trait Kept: Watchable {
    fn store(state: &mut State) -> &mut Store<Self>;
    /// Tells those whom it concerns.
    fn tell(feeds: &HashMap<String, Vec<Feed>>, sight: &Sight<Self>);
}

impl Kept for Job {
    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.jobs
    }

    fn tell(feeds: &HashMap<String, Vec<Feed>>, sight: &Sight<Self>) {
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

    fn tell(feeds: &HashMap<String, Vec<Feed>>, sight: &Sight<Self>) {
        let Some(pod) = sight.last() else { return };
        let (Some(name), Some((job, uid))) = (&pod.metadata.name, job_of_pod(pod)) else { return };
        for feed in feeds.get(job).into_iter().flatten().filter(|feed| feed.is_for(uid)) {
            feed.view.send_modify(|view| drop(view.pods.insert(name.clone(), sight.clone())));
        }
    }
}

impl State {
    fn health(&self) -> Health {
        self.jobs.health.max(self.pods.health)
    }

    fn set_health<T: Kept>(&mut self, health: Health) {
        T::store(self).health = health;
        self.tell_health();
    }

    fn tell_health(&self) {
        let health = self.health();
        for feed in self.feeds.values().flatten() {
            feed.view.send_if_modified(|view| std::mem::replace(&mut view.health, health) != health);
        }
    }

    fn applied<T: Kept>(&mut self, object: T) {
        let Some(name) = object.meta().name.clone() else { return };
        let new = Arc::new(object);
        let old = T::store(self).objects.insert(name, new.clone());
        if let Some(old) = old {
            let (was, is) = (old.meta(), new.meta());
            if was.uid != is.uid {
                T::tell(&self.feeds, &Sight::Deleted(old));
            } else if is.resource_version.is_some() && was.resource_version == is.resource_version {
                return;
            }
        }
        T::tell(&self.feeds, &Sight::Present(new));
    }

    fn deleted<T: Kept>(&mut self, object: T) {
        let objects = &mut T::store(self).objects;
        let name = object.meta().name.as_deref().unwrap_or_default();
        // Another one may have taken the name by now.
        if objects.get(name).is_some_and(|known| known.meta().uid == object.meta().uid) {
            objects.remove(name);
        }
        T::tell(&self.feeds, &Sight::Deleted(Arc::new(object)));
    }

    fn unreadable(&mut self, what: &Unreadable) {
        for feed in what.job.iter().filter_map(|job| self.feeds.get(job)).flatten() {
            feed.view.send_modify(|view| view.unreadable += 1);
        }
    }

    /// Takes a list for the truth: what is not on it is gone.
    fn listed<T: Kept>(&mut self, items: Vec<Result<T, Unreadable>>, version: Option<String>) {
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
                T::tell(&self.feeds, &Sight::Deleted(object));
            }
        }
        let store = T::store(self);
        store.version = version;
        store.fresh = false;
    }
}

/// How one watch ended.
enum Ended {
    /// It did its part: the server closed it, or the connection broke.
    Over {
        /// Whether it brought anything that could be read.
        fruitful: bool,
    },
    /// It could not be opened.
    NotOpened(ApiError),
    /// The server ended it with an error.
    Failed(ApiError),
}

impl<C: Cluster> Area<C> {
    fn new(cluster: Arc<C>, namespace: &str) -> Self {
        Self {
            cluster,
            namespace: namespace.to_owned(),
            state: Mutex::default(),
            users: watch::Sender::new(0),
            doubts: watch::Sender::new(0),
        }
    }

    fn is_needed(&self) -> bool {
        let state = self.lock();
        state.running
            || !state.feeds.is_empty()
            || state.refused_until.is_some_and(|until| Instant::now() < until)
    }

    /// Adds a subscription and sees to it that the watches run, unless they were refused a short while ago.
    fn enter(self: &Arc<Self>, selector: &str, job: &str, uid: Option<&str>) -> (u64, watch::Receiver<View>) {
        let mut state = self.lock();
        if !state.running && state.refused_until.is_none_or(|until| until <= Instant::now()) {
            state.running = true;
            state.refused_until = None;
            state.jobs = Store::default();
            state.pods = Store::default();
            state.tell_health();
            tokio::spawn(supervise(self.clone(), selector.to_owned()));
        }
        state.next_feed += 1;
        let id = state.next_feed;
        let feed = Feed {
            id,
            uid: uid.map(str::to_owned),
            view: watch::Sender::new(View { health: state.health(), ..View::default() }),
        };
        let view = feed.view.subscribe();
        // What was told before is told again, to this one alone.
        let known_job = state.jobs.objects.get(job).cloned();
        let known_pods: Vec<_> = state
            .pods
            .objects
            .values()
            .filter(|pod| job_of_pod(pod).is_some_and(|(name, _)| name == job))
            .cloned()
            .collect();
        let alone = HashMap::from([(job.to_owned(), vec![feed])]);
        if let Some(known) = known_job {
            Job::tell(&alone, &Sight::Present(known));
        }
        for pod in known_pods {
            Pod::tell(&alone, &Sight::Present(pod));
        }
        for (job, feeds) in alone {
            state.feeds.entry(job).or_default().extend(feeds);
        }
        let users = state.feeds.values().map(Vec::len).sum();
        drop(state);
        self.users.send_replace(users);
        (id, view)
    }

    /// Resolves when nobody has subscribed for [`LINGER`].
    async fn unused(&self) {
        let mut users = self.users.subscribe();
        loop {
            if users.wait_for(|users| *users == 0).await.is_err() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(LINGER) => return,
                _ = users.wait_for(|users| *users > 0) => {}
            }
        }
    }

    /// Watches one kind until that is refused.
    async fn keep_watching<T: Kept>(&self, selector: &str) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let mut doubts = self.doubts.subscribe();
        let mut fruitless = 0u32;
        loop {
            let opened = Instant::now();
            let one = AssertUnwindSafe(self.watch_once::<T>(selector)).catch_unwind();
            let ended = tokio::select! {
                ended = one => ended,
                _ = doubts.changed() => {
                    self.forget::<T>();
                    tokio::time::sleep(backoff.pause(None)).await;
                    continue;
                }
            };
            let mut asked = None;
            let mut broken = false;
            match ended {
                Ok(Ended::Over { fruitful }) => {
                    if fruitful || opened.elapsed() >= SOUND {
                        fruitless = 0;
                        backoff.reset();
                    } else {
                        fruitless += 1;
                    }
                    if opened.elapsed() >= SOUND {
                        continue;
                    }
                }
                Ok(Ended::NotOpened(error)) if is_refusal(&error) => return,
                Ok(Ended::NotOpened(error)) => {
                    broken = error.kind != ApiErrorKind::Expired;
                    if error.kind == ApiErrorKind::Expired {
                        self.forget::<T>();
                    }
                    asked = error.retry_after;
                }
                Ok(Ended::Failed(error)) => {
                    // Whatever it was: a list tells where things stand.
                    self.forget::<T>();
                    fruitless += 1;
                    asked = error.retry_after;
                }
                Err(_panic) => {
                    self.forget::<T>();
                    broken = true;
                }
            }
            if broken || fruitless > 1 {
                self.lock().set_health::<T>(Health::Broken);
            }
            tokio::time::sleep(backoff.pause(asked)).await;
        }
    }

    /// Forgets where the watch was, so that it starts with a list.
    fn forget<T: Kept>(&self) {
        let mut state = self.lock();
        let store = T::store(&mut state);
        store.version = None;
        store.fresh = false;
    }

    /// One watch from its opening to its end, after a list where it cannot go on from a known version.
    async fn watch_once<T: Kept>(&self, selector: &str) -> Ended {
        let (version, fresh) = {
            let mut state = self.lock();
            let store = T::store(&mut state);
            (store.version.clone(), store.fresh)
        };
        if version.is_none() && !fresh {
            let listed = self.cluster.list_for_watch(T::KIND, &self.namespace, selector).await;
            match listed.and_then(|body| read_list::<T>(&body)) {
                Ok(list) => self.lock().listed(list.items, list.version),
                Err(error) => return Ended::NotOpened(error),
            }
        }
        let query = {
            let mut state = self.lock();
            let resource_version = T::store(&mut state).version.clone();
            let timeout = jittered(TIMEOUT, TIMEOUT_JITTER);
            WatchQuery { selector: selector.to_owned(), resource_version, timeout }
        };
        let mut body = match self.cluster.watch(T::KIND, &self.namespace, &query).await {
            Ok(body) => body,
            Err(error) => return Ended::NotOpened(error),
        };
        {
            let mut state = self.lock();
            T::store(&mut state).fresh = false;
            state.set_health::<T>(Health::Live);
        }
        let mut fruitful = false;
        let mut rest = Vec::new();
        loop {
            let chunk = match tokio::time::timeout(query.timeout + SILENCE, body.next()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(_)) | None) => return Ended::Over { fruitful },
                Err(_silent) => {
                    // Nobody knows what it kept back.
                    self.forget::<T>();
                    return Ended::Over { fruitful };
                }
            };
            rest.extend_from_slice(&chunk);
            let mut from = 0;
            while let Some(end) = memchr::memchr(b'\n', &rest[from..]) {
                let line = &rest[from..from + end];
                from += end + 1;
                // One object that no code was prepared for must not blind the others.
                match std::panic::catch_unwind(AssertUnwindSafe(|| self.take::<T>(line))) {
                    Ok(Ok(readable)) => fruitful |= readable,
                    Ok(Err(error)) => return Ended::Failed(error),
                    Err(_panic) => {}
                }
            }
            rest.drain(..from);
        }
    }

    /// One line of a watch; whether it could be read.
    fn take<T: Kept>(&self, line: &[u8]) -> Result<bool, ApiError> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(false);
        }
        let event = read_line::<T>(line);
        let mut state = self.lock();
        // The first objects of a watch without a version come in any order: theirs are no places to go on from.
        let placed = T::store(&mut state).version.is_some();
        let version = match event {
            Ok(WatchEvent::Added(object)) => {
                let version = object.meta().resource_version.clone().filter(|_| placed);
                state.applied(object);
                version
            }
            Ok(WatchEvent::Modified(object)) => {
                let version = object.meta().resource_version.clone();
                state.applied(object);
                version
            }
            Ok(WatchEvent::Deleted(object)) => {
                let version = object.meta().resource_version.clone();
                state.deleted(object);
                version
            }
            Ok(WatchEvent::Bookmark(version)) => version,
            Ok(WatchEvent::Failed(error)) => return Err(error),
            Err(bad) => {
                state.unreadable(&bad);
                return Ok(false);
            }
        };
        if version.is_some() {
            T::store(&mut state).version = version;
        }
        Ok(true)
    }
}

impl<C> Area<C> {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Runs both watches of an area until they are refused or nobody needs them.
async fn supervise<C: Cluster>(area: Arc<Area<C>>, selector: String) {
    loop {
        let refused = tokio::select! {
            () = area.keep_watching::<Job>(&selector) => true,
            () = area.keep_watching::<Pod>(&selector) => true,
            () = area.unused() => false,
        };
        let mut state = area.lock();
        if refused {
            state.refused_until = Some(Instant::now() + REFUSAL);
            state.set_health::<Job>(Health::Refused);
        } else if !state.feeds.is_empty() {
            // Somebody came at the last moment.
            continue;
        }
        state.running = false;
        state.jobs.objects = HashMap::new();
        state.pods.objects = HashMap::new();
        return;
    }
}

/// Whether the service account may not watch, or the server cannot.
fn is_refusal(error: &ApiError) -> bool {
    error.kind == ApiErrorKind::Forbidden || error.code == Some(405)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
