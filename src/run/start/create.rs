//! The two ways to a live Job: create one (contract section 3.8) or attach to one (3.7).

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::claim::Claim;
use super::guard::Target;
use crate::cluster::{ApiError, ApiErrorKind, Cluster, retry};
use crate::manifest::{self, LABEL_RUN_ID, Manifest, Prepared, PromptBundle, PromptSecret, SelfPod};
use crate::outcome::Outcome;
use crate::request::Request;
use crate::run::cleanup::{Owned, OwnedJob};
use crate::run::{Host, Log, RunError, Started, StartedJob, meta_of, seconds, skill_summary, timing};
use k8s_openapi::api::batch::v1::Job;

/// How often creating a Job is tried when the API gives no clear answer.
const CREATE_ATTEMPTS: u32 = 4;

#[allow(clippy::too_many_arguments)] // the one place where everything a Job is made of comes together
pub(crate) async fn create<C: Cluster, H: Host>(
    cluster: Arc<C>,
    request: &Request,
    host: &H,
    log: &Log,
    self_pod: &SelfPod,
    prepared: &Prepared,
    bundle: &PromptBundle,
    owned: &Owned<C>,
    claim: &mut Option<Claim<C>>,
) -> Result<Started<C>, RunError> {
    let manifest = match manifest::build(request, self_pod, prepared, Some(bundle)) {
        Ok(manifest) => manifest,
        Err(error) => {
            return Ok(Started::Early(log.told(Outcome::config_invalid(&error.to_string())).await));
        }
    };
    if !manifest.skipped_labels.is_empty() {
        log.err(format!(
            "[paperclip] Warning: skipped {} extra label(s) with reserved prefix: {}",
            manifest.skipped_labels.len(),
            manifest.skipped_labels.join(", ")
        ))
        .await;
    }
    for note in &manifest.notes {
        log.out(format!("[paperclip] {note}")).await;
    }
    host.meta(meta(request, prepared, &manifest)).await?;

    let Manifest { job, job_name, namespace, prompt_secret, .. } = &manifest;
    if let Some(secret) = prompt_secret {
        if let Err(error) = create_secret(&cluster, request, job_name, secret, owned).await {
            let outcome = Outcome::prompt_secret_create_failed(&error.to_string());
            return Ok(Started::Early(log.told(outcome).await));
        }
        let bytes: usize = secret.data.values().map(String::len).sum();
        let kib = (bytes as f64 / 1024.0).round();
        log.out(format!("[paperclip] Created prompt Secret: {} ({kib} KiB)", secret.name)).await;
    }
    // Owned before it is asked for: an answer that gets lost still leaves a Job behind.
    let mut mine = OwnedJob {
        cluster: cluster.clone(),
        namespace: namespace.clone(),
        name: job_name.clone(),
        uid: None,
    };
    let mut creation = create_job(cluster.as_ref(), request, namespace, job).await;
    if let Creation::Failed { error: ApiError { kind: ApiErrorKind::Forbidden, .. }, .. } = &creation
        && let Some(claim) = claim.take()
    {
        // The claim itself may have taken the last Job that a quota admits.
        if let Some(warning) = claim.release().await {
            log.err(warning).await;
        }
        creation = create_job(cluster.as_ref(), request, namespace, job).await;
    }
    let created = match creation {
        Creation::Done(created) => created,
        Creation::Barred => return Ok(Started::Early(log.told(Outcome::overruled(job_name)).await)),
        Creation::Failed { error, unanswered } => {
            if unanswered || error.code.is_none() || error.is_transient() {
                owned.own_job(mine);
            }
            if let Some(claim) = claim.as_ref().filter(|_| unanswered) {
                claim.leave();
            }
            let outcome = Outcome::job_create_failed(&error.to_string());
            return Ok(Started::Early(log.told(outcome).await));
        }
    };
    mine.uid = created.metadata.uid.clone();
    owned.own_job(mine);
    if let (Some(secret), Some(uid)) = (prompt_secret, &created.metadata.uid) {
        let patch = json!([{
            "op": "add",
            "path": "/metadata/ownerReferences",
            "value": [{
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": job_name,
                "uid": uid,
                "blockOwnerDeletion": false,
            }],
        }]);
        if let Err(error) = cluster.patch_secret(&secret.namespace, &secret.name, &patch).await {
            log.err(format!("[paperclip] Warning: failed to set ownerReference on prompt Secret: {error}"))
                .await;
        }
    }
    let timeout = request.config.timeout_sec;
    let deadline = if timeout > 0.0 { seconds(timeout) } else { "none".to_owned() };
    log.out(format!(
        "[paperclip] Created K8s Job: {job_name} in namespace {namespace} (deadline: {deadline})"
    ))
    .await;
    Ok(Started::Job(StartedJob {
        cluster,
        namespace: namespace.clone(),
        job_name: job_name.clone(),
        job_uid: created.metadata.uid,
        reattached: None,
    }))
}

/// What came of creating a Job.
enum Creation {
    Done(Box<Job>),
    /// The name is taken by another host's barrier (see [`super::claim`]).
    Barred,
    Failed {
        error: ApiError,
        /// An attempt got no answer in time: it may still be under way to the server.
        unanswered: bool,
    },
}

/// Creates the Job; safe to repeat, because its name follows from agent and run, and a Job that is there
/// already is accepted only when it carries our own run id.
async fn create_job<C: Cluster>(cluster: &C, request: &Request, namespace: &str, job: &Job) -> Creation {
    let mut backoff = create_backoff();
    let mut unanswered = false;
    let mut attempt = 1;
    loop {
        let error = match cluster.create_job(namespace, job).await {
            Ok(created) => return Creation::Done(Box::new(created)),
            Err(error) => error,
        };
        unanswered |= error.kind == ApiErrorKind::Timeout;
        if error.kind == ApiErrorKind::AlreadyExists {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let present =
                retry::with_budget(timing::SETUP_READ_BUDGET, || cluster.get_job(namespace, name)).await;
            let run =
                |job: &Job| job.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_RUN_ID)).cloned();
            return match present {
                Ok(present) if manifest::barred_for(&present).is_some() => Creation::Barred,
                Ok(present)
                    if attempt > 1 && run(&present).is_some() && run(&present) == request.run_label() =>
                {
                    Creation::Done(Box::new(present))
                }
                Err(lost) if attempt > 1 => Creation::Failed { error: lost, unanswered },
                _ => Creation::Failed { error, unanswered },
            };
        }
        if !error.is_transient() || attempt == CREATE_ATTEMPTS {
            return Creation::Failed { error, unanswered };
        }
        attempt += 1;
        tokio::time::sleep(backoff.pause(error.retry_after)).await;
    }
}

async fn create_secret<C: Cluster>(
    cluster: &Arc<C>,
    request: &Request,
    job_name: &str,
    secret: &PromptSecret,
    owned: &Owned<C>,
) -> Result<(), ApiError> {
    let object = manifest::prompt_secret_object(secret, request.run_label().as_deref(), job_name);
    owned.own_secret(cluster.clone(), secret.namespace.clone(), secret.name.clone());
    let mut backoff = create_backoff();
    let mut attempt = 1;
    loop {
        let Err(error) = cluster.create_secret(&secret.namespace, &object).await else {
            return Ok(());
        };
        // Its name follows from agent and run, too: what is there after a failure is what that attempt created.
        if error.kind == ApiErrorKind::AlreadyExists && attempt > 1 {
            return Ok(());
        }
        if !error.is_transient() || attempt == CREATE_ATTEMPTS {
            return Err(error);
        }
        attempt += 1;
        tokio::time::sleep(backoff.pause(error.retry_after)).await;
    }
}

fn create_backoff() -> crate::cluster::retry::Backoff {
    crate::cluster::retry::Backoff::new(
        std::time::Duration::from_millis(250),
        std::time::Duration::from_secs(2),
    )
}

fn meta(request: &Request, prepared: &Prepared, manifest: &Manifest) -> serde_json::Value {
    let notes = [
        format!("Image: {}", manifest.image),
        format!("Namespace: {}", manifest.namespace),
        format!("Timeout: {}", seconds(request.config.timeout_sec)),
        format!("Skills {}", skill_summary(prepared)),
    ];
    let mut meta = meta_of(
        &format!("kubectl job/{}", manifest.job_name),
        &manifest.namespace,
        &manifest.claude_args,
        &notes,
        &manifest.prompt,
        serde_json::to_value(manifest.prompt_metrics).ok(),
    );
    meta["env"] = literal_env(&manifest.job);
    meta
}

/// The variables of the agent's container that are written out in the manifest.
fn literal_env(job: &Job) -> serde_json::Value {
    let containers =
        job.spec.iter().filter_map(|spec| spec.template.spec.as_ref()).flat_map(|pod| &pod.containers);
    containers
        .flat_map(|container| container.env.iter().flatten())
        .filter_map(|variable| Some((variable.name.clone(), json!(variable.value.as_ref()?))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Attaches to a Job that another host left running: relabels it as ours.
pub(crate) async fn reattach<C: Cluster, H: Host>(
    cluster: Arc<C>,
    request: &Request,
    host: &H,
    log: &Log,
    target: Target,
    owned: &Owned<C>,
    claim: Option<&Claim<C>>,
) -> Result<StartedJob<C>, RunError> {
    let Target { name, namespace, uid, prior_run, image, created } = target;
    let prior = if prior_run.is_empty() { "unknown" } else { &prior_run };
    let notes = [
        format!("Image: {image}"),
        format!("Namespace: {namespace}"),
        format!("Reattached from prior run: {prior}"),
        format!("Timeout: {}", seconds(request.config.timeout_sec)),
    ];
    host.meta(meta_of(&format!("kubectl job/{name}"), &namespace, &[], &notes, "", None)).await?;
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
    let young = claim.is_some_and(|claim| claim.is_younger_than(created.as_ref(), timing::POD_CREATION));
    let pod_patience = if young { timing::POD_CREATION } else { Duration::ZERO };
    Ok(StartedJob { cluster, namespace, job_name: name, job_uid: uid, reattached: Some(pod_patience) })
}
