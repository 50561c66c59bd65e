//! The two watches of a namespace, shared by its subscribers: started with the first, stopped after the last.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::Cluster;
use super::store::NamespaceState;
use super::watcher::Watcher;
use super::{Health, Snapshot, lock};

/// How long watches continue without a subscription: runs often follow each other closely.
const LINGER: Duration = Duration::from_secs(10);
/// How long a refusal holds before the permission is tried again.
const REFUSAL_HOLDS: Duration = Duration::from_secs(600);

/// One namespace of one cluster.
pub(super) struct NamespaceWatch<C> {
    pub(super) cluster: Arc<C>,
    pub(super) namespace: String,
    state: Mutex<NamespaceState>,
    /// The number of subscriptions.
    pub(super) subscribers: watch::Sender<usize>,
    /// Changes with every request for a resync.
    pub(super) resync_requests: watch::Sender<u64>,
}

impl<C> NamespaceWatch<C> {
    pub(super) fn lock(&self) -> MutexGuard<'_, NamespaceState> {
        lock(&self.state)
    }
}

impl<C: Cluster> NamespaceWatch<C> {
    pub(super) fn new(cluster: Arc<C>, namespace: &str) -> Self {
        Self {
            cluster,
            namespace: namespace.to_owned(),
            state: Mutex::default(),
            subscribers: watch::Sender::new(0),
            resync_requests: watch::Sender::new(0),
        }
    }

    pub(super) fn is_needed(&self) -> bool {
        let state = self.lock();
        let refusal_holds = state.refused_until.is_some_and(|until| Instant::now() < until);
        state.running || state.subscribers() > 0 || refusal_holds
    }

    /// Adds a subscription and starts the watches if they do not run, unless they were refused a short while ago.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        selector: &str,
        job: &str,
        uid: Option<&str>,
    ) -> (u64, watch::Receiver<Snapshot>) {
        let mut state = self.lock();
        if !state.running && state.refused_until.is_none_or(|until| until <= Instant::now()) {
            state.running = true;
            state.refused_until = None;
            state.reset();
            tokio::spawn(supervise(self.clone(), selector.to_owned()));
        }
        let subscription = state.subscribe(job, uid);
        self.subscribers.send_replace(state.subscribers());
        subscription
    }

    /// Resolves when there was no subscription for [`LINGER`].
    async fn unused(&self) {
        let mut subscribers = self.subscribers.subscribe();
        loop {
            if subscribers.wait_for(|count| *count == 0).await.is_err() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(LINGER) => return,
                _ = subscribers.wait_for(|count| *count > 0) => {}
            }
        }
    }
}

/// Runs both watches of a namespace until they are refused or unused.
async fn supervise<C: Cluster>(watch: Arc<NamespaceWatch<C>>, selector: String) {
    loop {
        let refused = tokio::select! {
            () = Watcher::<C, Job>::new(&watch, &selector).run() => true,
            () = Watcher::<C, Pod>::new(&watch, &selector).run() => true,
            () = watch.unused() => false,
        };
        let mut state = watch.lock();
        if refused {
            state.refused_until = Some(Instant::now() + REFUSAL_HOLDS);
            state.set_health::<Job>(Health::Refused);
            tracing::info!(namespace = watch.namespace, "watching is not permitted; runs poll");
        } else if state.subscribers() > 0 {
            // A run subscribed at the last moment.
            continue;
        } else {
            tracing::debug!(namespace = watch.namespace, "watches stopped: no subscriber is left");
        }
        state.running = false;
        state.clear_objects();
        return;
    }
}
