//! Creating a run's Job (`docs/contract.md`, "Creating the Job").

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use tokio::time::Instant;

use super::announce::announce;
use super::claim::{Claim, unique};
use super::meta;
use super::plan::Plan;
use super::run_secrets::RunSecrets;
use crate::claude::EndToken;
use crate::cluster::{ApiError, ApiErrorKind, Cluster, CreatedJob, retry};
use crate::forensics::{Account, Cause, one_line};
use crate::manifest::{self, LABEL_RUN_ID, Manifest, RunSecret, Sealed};
use crate::outcome::Outcome;
use crate::request::{Request, RunSecretMode};
use crate::run::cleanup::OwnedJob;
use crate::run::context::{LiveJob, Placement, RunContext, Stop};
use crate::run::job_view::JobSeen;
use crate::run::record::cause_of_create;
use crate::run::{Host, LogSink, events, timing};

/// How often the creation of a Job or Secret is attempted while the API's errors are transient.
const CREATE_ATTEMPTS: u32 = 4;

/// Creates the Job and the Secrets of its run. Leaves `claim` empty when it had to be released for the Job's sake.
pub(super) async fn create<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    placement: &Placement<C>,
    plan: &Plan,
    claim: &mut Option<Claim<C>>,
    run_secrets: &RunSecrets,
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
    let CreatedJob { job, warnings } =
        Box::pin(create_all(run, placement, &manifest, claim, run_secrets)).await?;
    let Manifest { job_name, namespace, .. } = &manifest;
    let job_uid = job.metadata.uid;
    let timeout = request.config.timeout_sec;
    let deadline = if timeout > 0.0 { meta::seconds(timeout) } else { "none".to_owned() };
    run.log
        .out(format!(
            "[paperclip] Created K8s Job: {job_name} in namespace {namespace} (deadline: {deadline})"
        ))
        .await;
    let payload = [
        ("job", job_name.as_str().into()),
        ("namespace", namespace.as_str().into()),
        ("image", manifest.image.as_str().into()),
    ];
    events::give(run, events::JOB, &format!("Created Job {job_name}"), payload);
    let warnings = warnings.iter().map(|warning| one_line(warning));
    let warnings: Vec<String> = warnings.filter(|warning| !is_on_purpose(warning)).collect();
    for warning in &warnings {
        run.log.err(format!("[paperclip] Warning of the API server for Job {job_name}: {warning}")).await;
    }
    tracing::debug!(run = run.request.run_id, job = job_name, "created");
    let cluster = placement.cluster.clone();
    let spent = plan.spent;
    let Manifest { job_name, namespace, .. } = manifest;
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

/// Whether the API server warns of a variable that is given twice: an earlier value is what another variable refers to.
fn is_on_purpose(warning: &str) -> bool {
    warning.starts_with("spec.template.spec.containers[0].env[")
        && warning.contains("hides previous definition")
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
    for warning in &manifest.warnings {
        log.err(format!("[paperclip] Warning: {warning}")).await;
    }
}

/// Creates the Job and its Secrets: sealed where this host may create Secrets, else as 0.1.49 did.
async fn create_all<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    placement: &Placement<C>,
    manifest: &Manifest,
    claim: &mut Option<Claim<C>>,
    run_secrets: &RunSecrets,
) -> Result<CreatedJob, Stop> {
    let kubeconfig = run.request.config.kubeconfig.as_deref();
    let namespace = &manifest.namespace;
    let mode = run.request.run_secret;
    let seals = match mode {
        RunSecretMode::Require => true,
        RunSecretMode::Auto => !run_secrets.are_refused(kubeconfig, namespace),
        RunSecretMode::Off => false,
    };
    let sealed = if seals { manifest.sealed(&unique()[..8]) } else { manifest.unsealed() };
    let sealed = match sealed {
        Ok(sealed) => sealed,
        Err(error) => return Err(run.stop(Outcome::config_invalid(&error.to_string())).await),
    };
    let created = create_owned_job(run, placement, manifest, &sealed, claim).await?;
    let Err(error) = create_secrets(run, placement, &created.job, &sealed.secrets).await else {
        return Ok(created);
    };
    if !seals || mode != RunSecretMode::Auto || error.kind != ApiErrorKind::Forbidden {
        return Err(run.stop(secret_failed(&error)).await);
    }
    if run_secrets.note_refusal(kubeconfig, namespace) {
        run.log
            .err(format!(
                "[paperclip] Warning: cannot create Secrets in namespace {namespace} — \
                 variables and prompt of runs stand in their Jobs in clear: {error}"
            ))
            .await;
    }
    let unsealed = match manifest.unsealed() {
        Ok(unsealed) => unsealed,
        Err(error) => return Err(run.stop(Outcome::config_invalid(&error.to_string())).await),
    };
    Box::pin(replace(run, placement, manifest, &created.job, &unsealed, claim)).await
}

/// Creates another Job in place of one whose container cannot have begun, because the Secret that it needs does not exist.
async fn replace<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    placement: &Placement<C>,
    manifest: &Manifest,
    old: &Job,
    new: &Sealed,
    claim: &mut Option<Claim<C>>,
) -> Result<CreatedJob, Stop> {
    let Manifest { job_name, namespace, .. } = manifest;
    let cluster = placement.cluster.as_ref();
    let uid = old.metadata.uid.as_deref();
    let deleted =
        retry::with_budget(timing::SETUP_READ_BUDGET, || cluster.delete_job(namespace, job_name, uid));
    if let Err(error) = deleted.await
        && !error.is_gone()
    {
        return Err(run.stop(Outcome::job_create_failed(&error.to_string())).await);
    }
    // A Job with finalizers, as a queue sets them, is there for a moment longer.
    let until = Instant::now() + timing::QUOTA_LAG;
    let mut backoff = timing::create_backoff();
    while Instant::now() < until && !run.cancel.is_cancelled() {
        match cluster.get_job(namespace, job_name).await {
            Ok(job) if job.metadata.uid == old.metadata.uid => tokio::time::sleep(backoff.pause(None)).await,
            _ => break,
        }
    }
    run.unless_cancelled(tokio::time::sleep(timing::NAME_FREE_PAUSE)).await?;
    let created = create_owned_job(run, placement, manifest, new, claim).await?;
    match create_secrets(run, placement, &created.job, &new.secrets).await {
        Ok(()) => Ok(created),
        Err(error) => Err(run.stop(secret_failed(&error)).await),
    }
}

fn secret_failed(error: &ApiError) -> Outcome {
    let outcome = Outcome::prompt_secret_create_failed(&error.to_string());
    match cause_of_create(error) {
        cause @ (Cause::NamespaceTerminating | Cause::NamespaceMissing) => outcome.because(cause),
        _ => outcome,
    }
}

/// Creates the Job and registers it for the cleanup, also when no answer says whether it exists.
async fn create_owned_job<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    placement: &Placement<C>,
    manifest: &Manifest,
    sealed: &Sealed,
    claim: &mut Option<Claim<C>>,
) -> Result<CreatedJob, Stop> {
    let cluster = placement.cluster.as_ref();
    let Manifest { job_name, namespace, .. } = manifest;
    let job = &sealed.job;
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
            if unanswered || error.code.is_none() || (error.is_transient() && !error.doubted) {
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
                Ok(present) if attempt > 1 && is_this(&present, job, &run.request) => {
                    Creation::Done(Box::new(CreatedJob { job: present, warnings: Vec::new() }))
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

/// Whether the Job carries this run's id, stays, and refers to the Secrets that this run is about to create.
fn is_this(present: &Job, wanted: &Job, request: &Request) -> bool {
    let label = present.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_RUN_ID));
    label.is_some()
        && label == request.run_label().as_ref()
        && present.metadata.deletion_timestamp.is_none()
        && manifest::secrets_of(present) == manifest::secrets_of(wanted)
}

/// Creates the Secrets of a run, right after the Job that owns them: its pod is not there yet.
async fn create_secrets<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    placement: &Placement<C>,
    job: &Job,
    secrets: &[RunSecret],
) -> Result<(), ApiError> {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let label = run.request.run_label();
    let objects = secrets.iter().map(|secret| {
        let uid = job.metadata.uid.as_deref();
        (secret, manifest::run_secret_object(secret, label.as_deref(), name, uid))
    });
    for (secret, object) in objects {
        // Registered first: an answer that gets lost still leaves a Secret behind.
        run.owned.own_secret(secret.name.clone());
        create_secret(placement.cluster.as_ref(), secret, &object).await?;
        let bytes: usize = secret.data.values().map(String::len).sum();
        let kib = (bytes as f64 / 1024.0).round();
        if secret.name.ends_with(manifest::PROMPT_SECRET_SUFFIX) {
            run.log.out(format!("[paperclip] Created prompt Secret: {} ({kib} KiB)", secret.name)).await;
        }
        tracing::debug!(run = run.request.run_id, secret = secret.name, kib, "created Secret");
    }
    Ok(())
}

/// Creates a Secret. Safe to repeat: no other has its name.
async fn create_secret<C: Cluster>(cluster: &C, secret: &RunSecret, object: &Secret) -> Result<(), ApiError> {
    let mut backoff = timing::create_backoff();
    let mut attempt = 1;
    loop {
        let Err(error) = cluster.create_secret(&secret.namespace, object).await else {
            return Ok(());
        };
        // A Secret that exists after a failure was created by that attempt.
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
