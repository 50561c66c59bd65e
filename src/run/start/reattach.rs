//! Attaching to a Job that another run left behind (`docs/contract.md`, "Reattach").

use std::time::Duration;

use serde_json::json;

use super::claim::Claim;
use super::guard::Orphan;
use super::meta;
use crate::cluster::Cluster;
use crate::run::cleanup::OwnedJob;
use crate::run::context::{LiveJob, Placement, RunContext, Stop};
use crate::run::{Host, timing};

/// Attaches to a Job that another host left running: relabels it as this run's.
pub(super) async fn reattach<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    place: &Placement<C>,
    orphan: Orphan,
    claim: Option<&Claim<C>>,
) -> Result<LiveJob<C>, Stop> {
    let RunContext { request, host, log, owned, .. } = run;
    let cluster = place.cluster.clone();
    host.meta(meta::of_reattached(request, &orphan)).await?;
    let prior = orphan.prior_run().to_owned();
    let Orphan { name, namespace, uid, created, .. } = orphan;
    log.out(format!(
        "[paperclip] Reattaching to in-flight K8s Job {name} in namespace {namespace} (prior run {prior})"
    ))
    .await;
    // `add` on a member that exists replaces it; `replace` on one that does not would refuse the whole patch.
    let mut patch = Vec::new();
    if let Some(run) = request.run_label() {
        patch.push(json!({"op": "add", "path": "/metadata/labels/paperclip.io~1run-id", "value": run}));
    }
    if let Some(session) = request.session_label() {
        patch.push(
            json!({"op": "add", "path": "/metadata/labels/paperclip.io~1session-id", "value": session}),
        );
    }
    if let Err(error) = cluster.patch_job(&namespace, &name, &json!(patch)).await {
        log.err(format!("[paperclip] Warning: failed to relabel reattached Job {name}: {error}")).await;
    }
    owned.own_job(OwnedJob {
        cluster: cluster.clone(),
        namespace: namespace.clone(),
        name: name.clone(),
        uid: uid.clone(),
    });
    // Another host may have created it a moment ago.
    let young =
        claim.is_some_and(|claim| claim.is_younger_than(created.as_ref(), timing::POD_CREATION_LIMIT));
    let pod_patience = if young { timing::POD_CREATION_LIMIT } else { Duration::ZERO };
    Ok(LiveJob { cluster, namespace, job_name: name, job_uid: uid, reattached: Some(pod_patience) })
}
