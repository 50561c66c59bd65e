//! One watch of one kind in one namespace, as a state machine.
//!
//! ```text
//! Listing → Opening → Streaming ─→ (end, error, silence) → BackingOff → Listing or Opening
//!    └─────────┴── refused → Refused
//! ```
//!
//! What was received is kept in the [`Store`](super::store::Store) of the kind, so a new attempt continues from the
//! last version and lists only where there is none. On a panic or a request for a resync, any state
//! changes to `BackingOff` and the version is forgotten.

use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::retry::{Backoff, jittered};
use super::super::{ApiError, ApiErrorKind, Cluster, MOST_WATCHED, WatchBody, WatchQuery};
use super::Health;
use super::decode::{WatchEvent, decode_line, decode_list};
use super::namespace::NamespaceWatch;
use super::store::Stored;

/// When the server is to end a watch; load balancers drop idle connections at 240 s. Shortened by a random part.
const TIMEOUT: Duration = Duration::from_secs(180);
/// The part of [`TIMEOUT`] that may be cut off at random.
const TIMEOUT_JITTER: f64 = 0.25;
/// A watch that brings nothing for its timeout and this is dead: even without changes there are bookmarks.
const SILENCE_MARGIN: Duration = Duration::from_secs(30);
/// The first pause before a watch is opened again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause before a watch is opened again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A younger watch ignores requests for a resync: a busy cluster lags, and a new watch would lag as much.
const RESYNC_MIN_AGE: Duration = Duration::from_secs(10);
/// How long the answer to a list or the opening of a watch may take.
const OPEN_LIMIT: Duration = Duration::from_secs(15);
/// No object is this large, as etcd keeps 1.5 MiB; a longer line is not a line of a watch.
const LINE_LIMIT: usize = 8 << 20;
/// A watch that lasted this long is opened again without a pause.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// The number of watches in a row that may end early and empty before the watch counts as broken.
const UNPRODUCTIVE_LIMIT: u32 = 1;

/// Where a watch stands.
enum State {
    /// A list is read: there is no version to continue from.
    Listing,
    /// The watch is opened. Without a version the server sends every object first.
    Opening { version: Option<String> },
    /// Events arrive.
    Streaming(EventStream),
    /// The watch ended, or could not be opened.
    BackingOff { pause: Duration },
    /// The service account may not watch, or the server cannot.
    Refused,
}

/// An open watch.
struct EventStream {
    body: WatchBody,
    /// The beginning of a line whose end has not arrived.
    partial: Vec<u8>,
    /// The longest time without a byte.
    idle_limit: Duration,
    /// Whether an event could be read.
    productive: bool,
}

/// Keeps the watch of one kind open.
pub(super) struct Watcher<'a, C, T> {
    watch: &'a NamespaceWatch<C>,
    selector: &'a str,
    backoff: Backoff,
    /// When this attempt (list, opening and events) began.
    began: Instant,
    /// How many watches in a row ended early without an event that could be read.
    unproductive: u32,
    kind: PhantomData<fn() -> T>,
}

impl<'a, C: Cluster, T: Stored> Watcher<'a, C, T> {
    pub(super) fn new(watch: &'a NamespaceWatch<C>, selector: &'a str) -> Self {
        Self {
            watch,
            selector,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            began: Instant::now(),
            unproductive: 0,
            kind: PhantomData,
        }
    }

    /// Watches until that is refused.
    pub(super) async fn run(mut self) {
        let mut resync_requests = self.watch.resync_requests.subscribe();
        let mut state = self.begin();
        loop {
            state = match state {
                State::Refused => return,
                State::BackingOff { pause } => {
                    tokio::time::sleep(pause).await;
                    self.begin()
                }
                active => {
                    let began = self.began;
                    let step = AssertUnwindSafe(self.step(active)).catch_unwind();
                    tokio::select! {
                        next = step => next.unwrap_or_else(|_panic| self.panicked()),
                        () = resync_requested(&mut resync_requests, began) => self.resync(),
                    }
                }
            };
        }
    }

    /// Advances by one request or one piece of the event stream. Cancelling it loses the state.
    async fn step(&mut self, state: State) -> State {
        match state {
            State::Listing => self.list().await,
            State::Opening { version } => self.open(version).await,
            State::Streaming(stream) => self.read(stream).await,
            waiting @ (State::BackingOff { .. } | State::Refused) => waiting,
        }
    }

    /// Begins an attempt, from the known version where there is one.
    fn begin(&mut self) -> State {
        self.began = Instant::now();
        let mut shared = self.watch.lock();
        let store = T::store(&mut shared);
        match store.version.clone() {
            None if !store.fresh => State::Listing,
            version => State::Opening { version },
        }
    }

    async fn list(&mut self) -> State {
        let namespace = &self.watch.namespace;
        let answer = within_limit(self.watch.cluster.list_for_watch(T::KIND, namespace, self.selector)).await;
        match answer.and_then(|body| decode_list::<T>(&body)) {
            Ok(list) => {
                self.watch.lock().listed(list.items, list.version.clone());
                State::Opening { version: list.version }
            }
            Err(error) => self.not_opened(&error),
        }
    }

    async fn open(&mut self, version: Option<String>) -> State {
        let query = WatchQuery {
            selector: self.selector.to_owned(),
            resource_version: version,
            timeout: jittered(TIMEOUT, TIMEOUT_JITTER),
        };
        let body = match within_limit(self.watch.cluster.watch(T::KIND, &self.watch.namespace, &query)).await
        {
            Ok(body) => body,
            Err(error) => return self.not_opened(&error),
        };
        let version = query.resource_version.as_deref();
        tracing::debug!(kind = T::KIND.resource(), namespace = self.watch.namespace, version, "watch opened");
        T::store(&mut self.watch.lock()).fresh = false;
        self.set_health(Health::Live);
        let idle_limit = query.timeout + SILENCE_MARGIN;
        State::Streaming(EventStream { body, partial: Vec::new(), idle_limit, productive: false })
    }

    /// Reads what arrives next.
    async fn read(&mut self, mut stream: EventStream) -> State {
        match tokio::time::timeout(stream.idle_limit, stream.body.next()).await {
            Ok(Some(Ok(piece))) => stream.partial.extend_from_slice(&piece),
            Ok(Some(Err(error))) => {
                self.log_end("connection broke", Some(&error));
                return self.ended(&stream, None);
            }
            Ok(None) => {
                self.log_end("closed by the server", None);
                return self.ended(&stream, None);
            }
            Err(_elapsed) => {
                // Events may have been lost on the way: only a list shows the difference.
                self.log_end("silent", None);
                self.forget_version();
                return self.ended(&stream, None);
            }
        }
        if stream.partial.len() > LINE_LIMIT {
            self.log_end("line too long", None);
            return self.ended(&stream, None);
        }
        match self.apply_lines(&mut stream) {
            Ok(()) => State::Streaming(stream),
            Err(error) => {
                self.log_end("error event", Some(&error));
                self.ended(&stream, Some(error))
            }
        }
    }

    /// Applies every complete line that has arrived.
    ///
    /// # Errors
    /// The error that the server sent as an event, or that there are too many objects.
    fn apply_lines(&self, stream: &mut EventStream) -> Result<(), ApiError> {
        let mut start = 0;
        while let Some(length) = memchr::memchr(b'\n', &stream.partial[start..]) {
            let line = &stream.partial[start..start + length];
            start += length + 1;
            // One object that panics must not hide the others.
            match std::panic::catch_unwind(AssertUnwindSafe(|| self.apply_line(line))) {
                Ok(readable) => stream.productive |= readable?,
                Err(_panic) => {
                    let (kind, namespace) = (T::KIND.resource(), &*self.watch.namespace);
                    tracing::error!(kind, namespace, "an event of a watch caused a panic");
                }
            }
        }
        stream.partial.drain(..start);
        Ok(())
    }

    /// Applies one line; returns whether it could be read.
    fn apply_line(&self, line: &[u8]) -> Result<bool, ApiError> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(false);
        }
        let event = decode_line::<T>(line);
        let mut shared = self.watch.lock();
        // The first objects of a watch without a version come in any order, so a watch cannot continue from theirs.
        let ordered = T::store(&mut shared).version.is_some();
        let version = match event {
            Ok(WatchEvent::Added(object)) => {
                let version = object.meta().resource_version.clone().filter(|_| ordered);
                shared.applied(object);
                version
            }
            Ok(WatchEvent::Modified(object)) => {
                let version = object.meta().resource_version.clone();
                shared.applied(object);
                version
            }
            Ok(WatchEvent::Deleted(object)) => {
                let version = object.meta().resource_version.clone();
                shared.deleted(object);
                version
            }
            Ok(WatchEvent::Bookmark(version)) => version,
            Ok(WatchEvent::Failed(error)) => return Err(error),
            Err(unreadable) => {
                tracing::debug!(kind = T::KIND.resource(), ?unreadable, "unreadable event");
                shared.unreadable(&unreadable);
                return Ok(false);
            }
        };
        if T::store(&mut shared).len() > MOST_WATCHED {
            let text = format!("more than {MOST_WATCHED} {} are watched", T::KIND.resource());
            return Err(ApiError::local(ApiErrorKind::Decode, "watch", text));
        }
        if version.is_some() {
            tracing::trace!(kind = T::KIND.resource(), version, "event");
            T::store(&mut shared).version = version;
        }
        Ok(true)
    }

    /// The list could not be read, or the watch not opened.
    fn not_opened(&mut self, error: &ApiError) -> State {
        let (kind, namespace) = (T::KIND.resource(), &*self.watch.namespace);
        if is_refusal(error) {
            tracing::debug!(kind, namespace, %error, "watch refused");
            return State::Refused;
        }
        tracing::debug!(kind, namespace, %error, "watch not opened");
        let expired = error.kind == ApiErrorKind::Expired;
        if expired {
            self.forget_version();
        }
        self.back_off(!expired, error.retry_after)
    }

    /// An open watch has ended, with the server's error event where it sent one.
    fn ended(&mut self, stream: &EventStream, error: Option<ApiError>) -> State {
        let stable = self.began.elapsed() >= STABLE_AFTER;
        if stream.productive || stable {
            self.unproductive = 0;
            self.backoff.reset();
        } else {
            self.unproductive += 1;
        }
        match error {
            // After any error event, start over with a list.
            Some(error) => {
                self.forget_version();
                self.back_off(false, error.retry_after)
            }
            None if stable => self.begin(),
            None => self.back_off(false, None),
        }
    }

    fn panicked(&mut self) -> State {
        tracing::error!(kind = T::KIND.resource(), namespace = self.watch.namespace, "watch panicked");
        self.forget_version();
        self.back_off(true, None)
    }

    /// A subscriber found out elsewhere what the watch should have brought: start over with a list.
    fn resync(&mut self) -> State {
        tracing::debug!(kind = T::KIND.resource(), namespace = self.watch.namespace, "watch to be resynced");
        self.forget_version();
        State::BackingOff { pause: self.backoff.pause(None) }
    }

    /// Pauses before the next attempt. Subscribers poll while the watch is broken.
    fn back_off(&mut self, broken: bool, retry_after: Option<Duration>) -> State {
        if broken || self.unproductive > UNPRODUCTIVE_LIMIT {
            self.set_health(Health::Broken);
        }
        State::BackingOff { pause: self.backoff.pause(retry_after) }
    }

    fn set_health(&self, health: Health) {
        let before = self.watch.lock().set_health::<T>(health);
        let (kind, namespace) = (T::KIND.resource(), &*self.watch.namespace);
        match (before, health) {
            (Health::Broken, Health::Live) => tracing::info!(kind, namespace, "watch works again"),
            (Health::Starting | Health::Live, Health::Broken) => {
                tracing::info!(kind, namespace, "watch broken; runs poll until it is open again");
            }
            _ => {}
        }
    }

    /// Makes the next attempt start with a list.
    fn forget_version(&self) {
        let mut shared = self.watch.lock();
        let store = T::store(&mut shared);
        store.version = None;
        store.fresh = false;
    }

    fn log_end(&self, why: &str, error: Option<&ApiError>) {
        let (kind, namespace) = (T::KIND.resource(), &*self.watch.namespace);
        let age_ms = self.began.elapsed().as_millis();
        let error = error.map(tracing::field::display);
        tracing::debug!(kind, namespace, why, age_ms, error, "watch ended");
    }
}

/// Resolves on a request for a resync of a watch that is at least [`RESYNC_MIN_AGE`] old; earlier ones are ignored.
async fn resync_requested(requests: &mut watch::Receiver<u64>, began: Instant) {
    loop {
        if requests.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if began.elapsed() >= RESYNC_MIN_AGE {
            return;
        }
    }
}

/// An answer within [`OPEN_LIMIT`], or an error.
async fn within_limit<T>(answer: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    let late = || ApiError::local(ApiErrorKind::Timeout, "watch", "the watch was not opened in time");
    tokio::time::timeout(OPEN_LIMIT, answer).await.unwrap_or_else(|_| Err(late()))
}

/// Whether the service account may not watch, or the server cannot.
fn is_refusal(error: &ApiError) -> bool {
    !error.doubted && (error.kind == ApiErrorKind::Forbidden || error.code == Some(405))
}
