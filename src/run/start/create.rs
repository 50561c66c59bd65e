//! Creating a run's Job (`docs/contract.md`, "Creating the Job").

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use tokio::time::Instant;

use super::announce::announce;
use super::claim::{Claim, unique};
use super::meta;
use super::plan::Plan;
use crate::claude::EndToken;
use crate::cluster::{ApiError, ApiErrorKind, Cluster, CreatedJob, retry};
use crate::forensics::{Account, Cause, one_line};
use crate::manifest::{self, LABEL_RUN_ID, Manifest, PromptSecret};
use crate::outcome::Outcome;
use crate::request::Request;
use crate::run::cleanup::OwnedJob;
use crate::run::context::{LiveJob, Placement, RunContext, Stop};
use crate::run::job_view::JobSeen;
use crate::run::record::cause_of_create;
use crate::run::{Host, LogSink, timing};

/// How often the creation of a Job or Secret is attempted while the API's errors are transient.
const CREATE_ATTEMPTS: u32 = 4;

/// Creates the prompt Secret and the Job. Leaves `claim` empty when it had to be released for the Job's sake.
pub(super) async fn create<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    placement: &Placement<C>,
    plan: &Plan,
    claim: &mut Option<Claim<C>>,
) -> Result<LiveJob<C>, Stop> {
    let Plan { request, prepared, bundle, .. } = plan;
    let session = plan.session();
    let end_token = EndToken::parse(&unique());
    let manifest = manifest::build(request, &placement.self_pod, prepared, Some(bundle));
    let manifest = manifest.and_then(|mut manifest| {
        if let Some(token) = &end_token {
            manifest.supervise(token)?;
        }
        manifest.remember_session(&session);
        Ok(manifest)
    });
    let manifest = match manifest {
        Ok(manifest) => manifest,
        Err(error) => return Err(run.stop(Outcome::config_invalid(&error.to_string())).await),
    };
    run.record.set_account(Account::of(&manifest.job));
    log_notes(&run.log, &manifest).await;
    run.unless_cancelled(run.host.meta(meta::of_created(request, prepared, &manifest))).await??;
    run.unless_cancelled(announce(run)).await?;
    if let Some(secret) = &manifest.prompt_secret {
        create_secret(run, placement, &manifest.job_name, secret).await?;
    }
    let CreatedJob { job, warnings } = create_owned_job(run, placement, &manifest, claim).await?;
    let Manifest { job_name, namespace, .. } = manifest;
    let job_uid = job.metadata.uid;
    if let (Some(secret), Some(uid)) = (&manifest.prompt_secret, &job_uid) {
        own_secret_by_job(run, placement, secret, &job_name, uid).await;
    }
    let timeout = request.config.timeout_sec;
    let deadline = if timeout > 0.0 { meta::seconds(timeout) } else { "none".to_owned() };
    run.log
        .out(format!(
            "[paperclip] Created K8s Job: {job_name} in namespace {namespace} (deadline: {deadline})"
        ))
        .await;
    let warnings: Vec<String> = warnings.iter().map(|warning| one_line(warning)).collect();
    for warning in &warnings {
        run.log.err(format!("[paperclip] Warning of the API server for Job {job_name}: {warning}")).await;
    }
    tracing::debug!(run = run.request.run_id, job = job_name, "created");
    let cluster = placement.cluster.clone();
    let spent = plan.spent;
    Ok(LiveJob {
        cluster,
        namespace,
        job_name,
        job_uid,
        warnings,
        reattached: None,
        end_token,
        session,
        spent,
    })
}

/// Logs what the manifest left out or decided.
async fn log_notes(log: &LogSink, manifest: &Manifest) {
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
}

/// Creates the Job and registers it for the cleanup, also when no answer says whether it exists.
async fn create_owned_job<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    placement: &Placement<C>,
    manifest: &Manifest,
    claim: &mut Option<Claim<C>>,
) -> Result<CreatedJob, Stop> {
    let cluster = placement.cluster.as_ref();
    let Manifest { job, job_name, namespace, .. } = manifest;
    let mut creation = create_job(cluster, run, namespace, job).await;
    if let Creation::Failed { error: ApiError { kind: ApiErrorKind::Forbidden, .. }, .. } = &creation
        && let Some(claim) = claim.take()
    {
        // The claim itself may have taken the last Job that a quota admits.
        if let Some(warning) = claim.release().await {
            run.log.err(warning).await;
        }
        creation = create_job_beside_quota(cluster, run, namespace, job).await;
    }
    let own = |uid| {
        run.owned.own_job(OwnedJob {
            cluster: placement.cluster.clone(),
            namespace: namespace.clone(),
            name: job_name.clone(),
            uid,
        });
    };
    match creation {
        Creation::Done(created) => {
            own(created.job.metadata.uid.clone());
            run.record.see_job(&JobSeen::Present(Arc::new(created.job.clone())));
            Ok(*created)
        }
        Creation::Barred => Err(run.stop(Outcome::overruled(job_name)).await),
        Creation::Failed { error, unanswered } => {
            // An answer that was lost can leave a Job behind.
            if unanswered || error.code.is_none() || error.is_transient() {
                own(None);
            }
            if let Some(claim) = claim.as_ref().filter(|_| unanswered) {
                claim.leave();
            }
            {
                let outcome = Outcome::job_create_failed(&error.to_string()).because(cause_of_create(&error));
                Err(run.stop(outcome).await)
            }
        }
    }
}

/// Lets the cluster delete the prompt Secret with its Job.
async fn own_secret_by_job<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    placement: &Placement<C>,
    secret: &PromptSecret,
    job_name: &str,
    job_uid: &str,
) {
    let patch = json!([{
        "op": "add",
        "path": "/metadata/ownerReferences",
        "value": [{
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job_name,
            "uid": job_uid,
            "blockOwnerDeletion": false,
        }],
    }]);
    if let Err(error) = placement.cluster.patch_secret(&secret.namespace, &secret.name, &patch).await {
        run.log
            .err(format!("[paperclip] Warning: failed to set ownerReference on prompt Secret: {error}"))
            .await;
    }
}

/// What came of creating a Job.
enum Creation {
    Done(Box<CreatedJob>),
    /// The name is taken by another host's barrier (see [`super::claim`]).
    Barred,
    Failed {
        error: ApiError,
        /// An attempt got no answer in time: it may still be under way to the server.
        unanswered: bool,
    },
}

/// Creates the Job once the claim is deleted: a quota goes on counting that for a while.
async fn create_job_beside_quota<C: Cluster, H>(
    cluster: &C,
    run: &RunContext<C, H>,
    namespace: &str,
    job: &Job,
) -> Creation {
    let until = Instant::now() + timing::QUOTA_LAG;
    let mut backoff = timing::create_backoff();
    loop {
        let creation = create_job(cluster, run, namespace, job).await;
        let is_counted = matches!(
            &creation,
            Creation::Failed { error, .. }
                if error.kind == ApiErrorKind::Forbidden && error.message.contains("exceeded quota")
        );
        if !is_counted || Instant::now() >= until || run.cancel.is_cancelled() {
            return creation;
        }
        tokio::time::sleep(backoff.pause(None)).await;
    }
}

/// Creates the Job. Safe to repeat, because its name follows from agent and run, and a Job that exists already is
/// accepted only when it carries the run's own id.
async fn create_job<C: Cluster, H>(
    cluster: &C,
    run: &RunContext<C, H>,
    namespace: &str,
    job: &Job,
) -> Creation {
    let mut backoff = timing::create_backoff();
    let mut unanswered = false;
    let mut attempt = 1;
    loop {
        let error = match cluster.create_job(namespace, job).await {
            Ok(created) => {
                run.owned.job_may_exist();
                return Creation::Done(Box::new(created));
            }
            Err(error) => error,
        };
        // Some conflicts say that the name is taken.
        if error.may_have_been_carried_out() || error.kind == ApiErrorKind::Conflict {
            run.owned.job_may_exist();
        }
        unanswered |= error.kind == ApiErrorKind::Timeout;
        if error.kind == ApiErrorKind::AlreadyExists {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let present =
                retry::with_budget(timing::SETUP_READ_BUDGET, || cluster.get_job(namespace, name)).await;
            if let Ok(present) = &present
                && manifest::barred_for(present).is_some()
            {
                return Creation::Barred;
            }
            run.owned.job_may_exist();
            return match present {
                // An earlier attempt created it, and its answer was lost.
                Ok(job) if attempt > 1 && is_of_run(&job, &run.request) => {
                    Creation::Done(Box::new(CreatedJob { job, warnings: Vec::new() }))
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

/// Whether the Job carries this run's id.
fn is_of_run(job: &Job, request: &Request) -> bool {
    let label = job.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_RUN_ID));
    label.is_some() && label == request.run_label().as_ref()
}

/// Creates the Secret of a large prompt.
async fn create_secret<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    placement: &Placement<C>,
    job_name: &str,
    secret: &PromptSecret,
) -> Result<(), Stop> {
    let object = manifest::prompt_secret_object(secret, run.request.run_label().as_deref(), job_name);
    // Registered first: an answer that gets lost still leaves a Secret behind.
    run.owned.own_secret(placement.cluster.clone(), secret.namespace.clone(), secret.name.clone());
    if let Err(error) = create_secret_with_retries(placement.cluster.as_ref(), secret, &object).await {
        let outcome = Outcome::prompt_secret_create_failed(&error.to_string());
        let outcome = match cause_of_create(&error) {
            cause @ (Cause::NamespaceTerminating | Cause::NamespaceMissing) => outcome.because(cause),
            _ => outcome,
        };
        return Err(run.stop(outcome).await);
    }
    let bytes: usize = secret.data.values().map(String::len).sum();
    let kib = (bytes as f64 / 1024.0).round();
    run.log.out(format!("[paperclip] Created prompt Secret: {} ({kib} KiB)", secret.name)).await;
    Ok(())
}

async fn create_secret_with_retries<C: Cluster>(
    cluster: &C,
    secret: &PromptSecret,
    object: &Secret,
) -> Result<(), ApiError> {
    let mut backoff = timing::create_backoff();
    let mut attempt = 1;
    loop {
        let Err(error) = cluster.create_secret(&secret.namespace, object).await else {
            return Ok(());
        };
        // Its name follows from agent and run, too: a Secret that exists after a failure was created by that attempt.
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
