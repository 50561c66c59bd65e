//! Finds out how the container ended.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use super::end::RunEnd;
use crate::cluster::Cluster;
use crate::cluster::watch::Health;
use crate::forensics::{
    Deletion, Disruption, TerminatedState, disruption_since, is_terminal, terminated_state,
};
use crate::manifest::CLAUDE_CONTAINER;
use crate::run::job_view::{ContainerState, Observed};
use crate::run::log::follow::Follower;
use crate::run::timing;

/// How the container ended, as far as that is known.
#[derive(Default)]
pub(super) struct ExitStatus {
    pub(super) container: Option<TerminatedState>,
    /// What ended the pod.
    pub(super) disruption: Option<Disruption>,
    /// When its deletion was requested.
    pub(super) asked_to_end: Option<Timestamp>,
}

impl ExitStatus {
    fn of<C: Cluster>(observed: &Observed<C>, pod: &Pod) -> Self {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let first = observed.deletion(name);
        let shown = disruption_since(pod, first);
        let says_why = shown.as_ref().is_some_and(|shown| !shown.is_plain_deletion());
        Self {
            container: terminated_state(pod, CLAUDE_CONTAINER),
            disruption: if says_why { shown } else { observed.disruption(name).or(shown) },
            asked_to_end: first.or_else(|| Deletion::of(pod)).map(|deletion| deletion.requested_at()),
        }
    }
}

/// Finds out how the container ended: from what the run has seen, even of a pod that is gone by now, or from the pod,
/// read again while its status lags. A failing read loses the exit code, never the run.
pub(super) async fn find<C: Cluster>(
    observed: &Observed<C>,
    follower: &mut Follower<C>,
    end: &RunEnd,
) -> ExitStatus {
    match end {
        // The pod has said it itself; its status says it later.
        RunEnd::Told => {
            let snapshot = observed.watched.snapshot();
            let seen = snapshot.last_pod(&follower.pod).map(|pod| ExitStatus::of(observed, pod));
            let said = TerminatedState { exit_code: Some(0), ..TerminatedState::default() };
            let said = ExitStatus { container: Some(said), ..ExitStatus::default() };
            return seen.filter(|seen| seen.container.is_some()).unwrap_or(said);
        }
        // How it ended says only that the run ended it.
        RunEnd::Hung | RunEnd::Cancelled { .. } => return ExitStatus::default(),
        _ => {}
    }
    let last_read = follower.last_pod.take();
    let (pod, container) = (&follower.pod, &*follower.container);
    let patience = Instant::now() + timing::EXIT_STATUS_LAG;
    let mut changes = observed.watched.changes();
    let known = loop {
        let snapshot = changes.borrow_and_update().clone();
        let seen = snapshot.last_pod(pod).map(AsRef::as_ref).or(last_read.as_ref());
        let mut known = seen.map(|pod| ExitStatus::of(observed, pod)).unwrap_or_default();
        if let ContainerState::Ended(Some(state)) = &*container.borrow() {
            known.container.get_or_insert_with(|| state.clone());
        }
        // A watch that fell behind does not show what was read since.
        if let Some(read) = last_read.as_ref().filter(|_| known.disruption.is_none()) {
            let read = ExitStatus::of(observed, read);
            (known.disruption, known.asked_to_end) = (read.disruption, read.asked_to_end);
        }
        let Some(seen) = seen.filter(|_| snapshot.health == Health::Live) else {
            if known.container.is_some() {
                return known;
            }
            break known;
        };
        let lagging = is_terminal(seen) || container.borrow().is_over();
        if known.container.is_some() || !lagging || snapshot.pod().is_none() {
            return known;
        }
        if tokio::time::timeout_at(patience, changes.changed()).await.is_err() {
            break known;
        }
    };
    let read = read_pod(observed, pod, container).await;
    ExitStatus {
        container: read.container.or(known.container),
        disruption: read.disruption.or(known.disruption),
        asked_to_end: read.asked_to_end.or(known.asked_to_end),
    }
}

/// Reads the pod until its status shows how the container ended, or is not expected to.
async fn read_pod<C: Cluster>(
    observed: &Observed<C>,
    pod: &str,
    container: &watch::Sender<ContainerState>,
) -> ExitStatus {
    let mut exit = ExitStatus::default();
    let patience = Instant::now() + timing::EXIT_STATUS_LAG;
    loop {
        match observed.pod_named(pod).await {
            Ok(Some(pod)) => {
                exit = ExitStatus::of(observed, &pod);
                let lagging = is_terminal(&pod) || container.borrow().is_over();
                if exit.container.is_some() || !lagging {
                    return exit;
                }
            }
            Ok(None) => return exit,
            Err(error) if !error.is_transient() => return exit,
            Err(_) => {}
        }
        if Instant::now() >= patience {
            return exit;
        }
        tokio::time::sleep(timing::EXIT_STATUS_INTERVAL).await;
    }
}
