//! The two watches of a namespace: opened, read, supervised, opened again.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::event::{WatchEvent, read_line, read_list};
use super::super::retry::{Backoff, jittered};
use super::super::{ApiError, ApiErrorKind, Cluster, WatchQuery};
use super::store::{Kept, State};
use super::{Health, Snapshot, lock};

/// When the server is to end a watch; load balancers drop idle connections at 240 s. Shortened by a random part.
const TIMEOUT: Duration = Duration::from_secs(180);
/// How much of [`TIMEOUT`] may be cut off at random.
const TIMEOUT_JITTER: f64 = 0.25;
/// A watch that brings nothing for its timeout and this is dead: even without changes there are bookmarks.
const SILENCE: Duration = Duration::from_secs(30);
/// First and longest pause before a watch is opened again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// A watch is not doubted before this age: a busy cluster lags, and a new watch would lag as much.
const SURE: Duration = Duration::from_secs(10);
/// How long the answer to a list or the opening of a watch may take.
const OPENING: Duration = Duration::from_secs(15);
/// No object is so large; what is, is no line of a watch.
const LINE_LIMIT: usize = 16 << 20;
/// A watch that lasted so long is opened again without a pause.
const SOUND: Duration = Duration::from_secs(5);
/// For how long watches go on without a subscription: runs often follow each other closely.
const LINGER: Duration = Duration::from_secs(10);
/// For how long a refusal is believed before the permission is tried again.
const REFUSAL: Duration = Duration::from_secs(600);

/// One namespace of one cluster.
pub(super) struct Area<C> {
    cluster: Arc<C>,
    namespace: String,
    state: Mutex<State>,
    pub(super) users: watch::Sender<usize>,
    pub(super) doubts: watch::Sender<u64>,
}

/// How one watch ended.
enum Ended {
    /// It could not be opened.
    NotOpened(ApiError),
    /// The server closed it, or the connection broke.
    Over {
        /// Whether it brought anything that could be read.
        fruitful: bool,
        /// What the server said about it.
        error: Option<ApiError>,
    },
}

impl<C: Cluster> Area<C> {
    pub(super) fn new(cluster: Arc<C>, namespace: &str) -> Self {
        Self {
            cluster,
            namespace: namespace.to_owned(),
            state: Mutex::default(),
            users: watch::Sender::new(0),
            doubts: watch::Sender::new(0),
        }
    }

    pub(super) fn is_needed(&self) -> bool {
        let state = self.lock();
        state.running || state.users() > 0 || state.refused_until.is_some_and(|until| Instant::now() < until)
    }

    /// Adds a subscription and sees to it that the watches run, unless they were refused a short while ago.
    pub(super) fn enter(
        self: &Arc<Self>,
        selector: &str,
        job: &str,
        uid: Option<&str>,
    ) -> (u64, watch::Receiver<Snapshot>) {
        let mut state = self.lock();
        if !state.running && state.refused_until.is_none_or(|until| until <= Instant::now()) {
            state.running = true;
            state.refused_until = None;
            state.begin();
            tokio::spawn(supervise(self.clone(), selector.to_owned()));
        }
        let entered = state.enter(job, uid);
        self.users.send_replace(state.users());
        entered
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
            let began = Instant::now();
            let one = AssertUnwindSafe(self.watch_once::<T>(selector)).catch_unwind();
            let ended = tokio::select! {
                ended = one => ended,
                () = doubted(&mut doubts, began) => {
                    self.forget::<T>();
                    tokio::time::sleep(backoff.pause(None)).await;
                    continue;
                }
            };
            let mut asked = None;
            let mut broken = false;
            match ended {
                Ok(Ended::NotOpened(error)) if is_refusal(&error) => return,
                Ok(Ended::NotOpened(error)) => {
                    broken = error.kind != ApiErrorKind::Expired;
                    if error.kind == ApiErrorKind::Expired {
                        self.forget::<T>();
                    }
                    asked = error.retry_after;
                }
                Ok(Ended::Over { fruitful, error }) => {
                    let sound = began.elapsed() >= SOUND;
                    if fruitful || sound {
                        fruitless = 0;
                        backoff.reset();
                    } else {
                        fruitless += 1;
                    }
                    match error {
                        // Whatever it was: a list tells where things stand.
                        Some(error) => {
                            self.forget::<T>();
                            asked = error.retry_after;
                        }
                        None if sound => continue,
                        None => {}
                    }
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
            let listed = opened(self.cluster.list_for_watch(T::KIND, &self.namespace, selector)).await;
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
        let mut body = match opened(self.cluster.watch(T::KIND, &self.namespace, &query)).await {
            Ok(body) => body,
            Err(error) => return Ended::NotOpened(error),
        };
        {
            let mut state = self.lock();
            T::store(&mut state).fresh = false;
            state.set_health::<T>(Health::Live);
        }
        let version = query.resource_version.as_deref();
        tracing::debug!(kind = T::KIND.resource(), namespace = self.namespace, version, "watch opened");
        let mut fruitful = false;
        let mut rest = Vec::new();
        loop {
            let chunk = match tokio::time::timeout(query.timeout + SILENCE, body.next()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(_)) | None) => return Ended::Over { fruitful, error: None },
                Err(_silent) => {
                    // Nobody knows what it kept back.
                    self.forget::<T>();
                    return Ended::Over { fruitful, error: None };
                }
            };
            rest.extend_from_slice(&chunk);
            if rest.len() > LINE_LIMIT {
                return Ended::Over { fruitful, error: None };
            }
            let mut from = 0;
            while let Some(end) = memchr::memchr(b'\n', &rest[from..]) {
                let line = &rest[from..from + end];
                from += end + 1;
                // One object that no code was prepared for must not blind the others.
                match std::panic::catch_unwind(AssertUnwindSafe(|| self.take::<T>(line))) {
                    Ok(Ok(readable)) => fruitful |= readable,
                    Ok(Err(error)) => return Ended::Over { fruitful, error: Some(error) },
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
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
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
        } else if state.users() > 0 {
            // Somebody came at the last moment.
            continue;
        }
        state.running = false;
        state.end();
        return;
    }
}

/// Resolves when somebody doubts a watch that is older than [`SURE`].
async fn doubted(doubts: &mut watch::Receiver<u64>, began: Instant) {
    loop {
        if doubts.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if began.elapsed() >= SURE {
            return;
        }
    }
}

/// An answer within [`OPENING`], or an error.
async fn opened<T>(answer: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    let late = || ApiError::local(ApiErrorKind::Timeout, "watch", "the watch was not opened in time");
    tokio::time::timeout(OPENING, answer).await.unwrap_or_else(|_| Err(late()))
}

/// Whether the service account may not watch, or the server cannot.
fn is_refusal(error: &ApiError) -> bool {
    error.kind == ApiErrorKind::Forbidden || error.code == Some(405)
}
