//! Attaching to a Job that another run left behind (`docs/contract.md`, "Reattach").

use std::time::Duration;

use serde_json::{Value, json};

use super::announce::announce;
use super::claim::Claim;
use super::guard::Orphan;
use super::meta;
use super::plan::Plan;
use crate::cluster::Cluster;
use crate::manifest::{JobSession, LABEL_RUN_ID, LABEL_SESSION_ID};
use crate::request::SessionPlace;
use crate::run::cleanup::OwnedJob;
use crate::run::context::{LiveJob, Placement, RunContext, Stop};
use crate::run::{Host, events, timing};

/// Attaches to a Job that another run left behind: relabels it as this run's and registers it for the cleanup.
pub(super) async fn reattach<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    placement: &Placement<C>,
    orphan: Orphan,
    claim: Option<&Claim<C>>,
    plan: &Plan,
) -> Result<LiveJob<C>, Stop> {
    let RunContext { request, host, log, owned, .. } = run;
    let cluster = placement.cluster.clone();
    run.unless_cancelled(host.meta(meta::of_reattached(request, &orphan))).await??;
    run.unless_cancelled(announce(run)).await?;
    let prior = orphan.prior_run().to_owned();
    let Orphan { name, namespace, uid, created, end_token, account, session, secrets, .. } = orphan;
    run.record.set_account(*account);
    log.out(format!(
        "[paperclip] Reattaching to in-flight K8s Job {name} in namespace {namespace} (prior run {prior})"
    ))
    .await;
    let payload = [("job", name.as_str().into()), ("namespace", namespace.as_str().into())];
    events::give(run, events::REATTACHED, &format!("Reattached to Job {name}"), payload);
    let mut patch = Vec::new();
    if let Some(run) = request.run_label() {
        patch.push(set_label(LABEL_RUN_ID, &run));
    }
    if let Some(session) = request.session_label() {
        patch.push(set_label(LABEL_SESSION_ID, &session));
    }
    if let Err(error) = cluster.patch_job(&namespace, &name, &json!(patch)).await {
        log.err(format!("[paperclip] Warning: failed to relabel reattached Job {name}: {error}")).await;
    }
    owned.job_may_exist();
    owned.own_job(OwnedJob {
        cluster: cluster.clone(),
        namespace: namespace.clone(),
        name: name.clone(),
        uid: uid.clone(),
    });
    for secret in secrets {
        owned.own_secret(secret);
    }
    // Another host may have created it a moment ago.
    let young =
        claim.is_some_and(|claim| claim.is_younger_than(created.as_ref(), timing::POD_CREATION_LIMIT));
    let pod_patience = if young { timing::POD_CREATION_LIMIT } else { Duration::ZERO };
    tracing::debug!(run = request.run_id, job = name, prior, "reattached");
    Ok(LiveJob {
        cluster,
        namespace,
        job_name: name,
        job_uid: uid,
        warnings: Vec::new(),
        reattached: Some(pod_patience),
        end_token,
        session: session_of(session, plan),
        spent: plan.spent,
    })
}

/// The session of a Job that is taken over: as the Job says, with the repository that this run has.
fn session_of(session: Option<Box<JobSession>>, plan: &Plan) -> JobSession {
    let Some(session) = session else { return plan.session() };
    let mut session = *session;
    let SessionPlace { workspace_id, repo_url, repo_ref, .. } = plan.place.clone();
    session.place = SessionPlace { workspace_id, repo_url, repo_ref, ..session.place };
    session
}

/// An operation of a JSON patch. `add` replaces a member that exists; `replace` of one that does not would refuse the
/// whole patch.
fn set_label(label: &str, value: &str) -> Value {
    json!({"op": "add", "path": format!("/metadata/labels/{}", label.replace('/', "~1")), "value": value})
}
