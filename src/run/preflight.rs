//! The environment test: what an operator sees before the first run (`docs/contract.md`, "Environment test").

mod hello;

use std::path::PathBuf;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::{RunError, Runner, shared};
use crate::cluster::{AccessReview, ApiError, ApiErrorKind, Cluster, Clusters};
use crate::manifest::{self, Prepared, SelfPod};
use crate::request::{Agent, Request, RunSecretMode, VolumeMode};

/// How serious a check's result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Nothing is wrong.
    Info,
    /// Runs may work.
    Warn,
    /// Runs will fail.
    Error,
}

/// One line of the test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// Stable name of the check.
    pub code: &'static str,
    /// How serious.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Check {
    fn new(code: &'static str, level: Level, message: impl Into<String>) -> Self {
        Self { code, level, message: message.into(), detail: None, hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// One permission that runs use.
struct Permission {
    code: &'static str,
    group: &'static str,
    resource: &'static str,
    verb: &'static str,
    label: &'static str,
    /// How serious it is to lack it: an error where no run works without it, a warning where runs only work worse, and
    /// information where they only say less.
    lack: Level,
    /// What granting it gives, where that is not obvious.
    gives: &'static str,
}

const fn permission(
    code: &'static str,
    group: &'static str,
    resource: &'static str,
    verb: &'static str,
    label: &'static str,
) -> Permission {
    Permission { code, group, resource, verb, label, lack: Level::Error, gives: "" }
}

/// The ten permissions that 0.1.49 checked, in its order, then the verbs that it used without checking them.
const PERMISSIONS: &[Permission] = &[
    permission("k8s_rbac_job_create", "batch", "jobs", "create", "create Jobs"),
    permission("k8s_rbac_job_delete", "batch", "jobs", "delete", "delete Jobs"),
    permission("k8s_rbac_job_get", "batch", "jobs", "get", "get Jobs"),
    permission("k8s_rbac_job_list", "batch", "jobs", "list", "list Jobs"),
    permission("k8s_rbac_pod_list", "", "pods", "list", "list Pods"),
    permission("k8s_rbac_pod_log", "", "pods/log", "get", "get Pod logs"),
    Permission {
        gives: " Until then the variables and the prompt of a run stand in its Job in clear.",
        ..permission("k8s_rbac_secret_create", "", "secrets", "create", "create Secrets")
    },
    permission("k8s_rbac_secret_delete", "", "secrets", "delete", "delete Secrets"),
    Permission {
        lack: Level::Warn,
        gives: " Only this test reads one, that of secretRef; no run does.",
        ..permission("k8s_rbac_secret_get", "", "secrets", "get", "get Secrets")
    },
    permission("k8s_rbac_pvc_get", "", "persistentvolumeclaims", "get", "get PersistentVolumeClaims"),
    Permission {
        lack: Level::Warn,
        ..permission("k8s_rbac_job_patch", "batch", "jobs", "patch", "patch Jobs")
    },
    Permission {
        lack: Level::Warn,
        ..permission("k8s_rbac_job_watch", "batch", "jobs", "watch", "watch Jobs")
    },
    Permission { lack: Level::Warn, ..permission("k8s_rbac_pod_watch", "", "pods", "watch", "watch Pods") },
    Permission {
        lack: Level::Info,
        gives: " A run that gets no pod, or whose volumes are stuck, then says why.",
        ..permission("k8s_rbac_event_list", "", "events", "list", "list Events")
    },
    Permission {
        lack: Level::Info,
        gives: " A run whose Job goes with its whole namespace then says so whatever else it may do.",
        ..permission("k8s_rbac_namespace_get", "", "namespaces", "get", "get the Namespace")
    },
    Permission {
        lack: Level::Info,
        gives: " The environment test then finds accounts, classes and policies that keep the pods of runs from being created.",
        ..permission("k8s_rbac_pod_create", "", "pods", "create", "create Pods")
    },
];

impl<K: Clusters> Runner<K> {
    /// All checks, in a stable order: API, namespace, permissions, Secret, PVC. Those after the API's run concurrently.
    /// Never fails: every error is a check.
    pub(crate) async fn test_environment(&self, request_json: &str) -> Vec<Check> {
        let unreachable = |error: &dyn std::fmt::Display| {
            vec![
                Check::new("k8s_api_unreachable", Level::Error, format!("Cannot reach Kubernetes API: {error}"))
                    .hint(
                        "Ensure the pod has a valid service account token mounted and the API server is accessible.",
                    ),
            ]
        };
        let request = match Request::parse(request_json) {
            Ok(request) => request,
            Err(error) => {
                return vec![
                    Check::new("k8s_config_invalid", Level::Error, error.to_string())
                        .hint("Correct this value in the agent's adapter configuration."),
                ];
            }
        };
        let reached = async {
            let cluster = self.cluster(&request).await?;
            let pod = self.self_pods.read(cluster.as_ref(), &request).await?;
            Ok::<_, RunError>((cluster, pod))
        };
        let (cluster, pod) = match reached.await {
            Ok(reached) => reached,
            Err(error) => return unreachable(&error),
        };
        let cluster = cluster.as_ref();
        let namespace = request.config.namespace.as_deref().unwrap_or(&pod.namespace);
        let api = Check::new(
            "k8s_api_reachable",
            Level::Info,
            format!("Kubernetes API reachable; running in namespace {}", pod.namespace),
        )
        .detail(format!("Image: {}", pod.image));
        let secret = request.config.secret_ref.as_str();
        let permissions = futures::future::join_all(
            PERMISSIONS.iter().map(|permission| check_permission(cluster, permission, namespace, secret)),
        );
        let (target, permissions, secret, claim, job) = tokio::join!(
            check_namespace(cluster, namespace, &pod.namespace),
            permissions,
            check_secret(cluster, namespace, secret),
            check_claim(cluster, &pod.namespace, pod.pvc_claim_name.as_deref()),
            check_job(cluster, &request, &pod),
        );
        let mut checks = vec![api, target];
        checks.extend(permissions);
        checks.extend([secret, claim]);
        checks.extend(check_volume(&request, &pod).await);
        checks.extend(job);
        // What the API server refuses need not be tried.
        let is_refused = checks
            .iter()
            .any(|check| matches!(check.code, "k8s_job_refused" | "k8s_pod_refused" | "k8s_config_invalid"));
        if request.config.test_with_job && !is_refused {
            checks.extend(hello::check(cluster, &request, &pod).await);
        }
        checks
    }
}

async fn check_namespace<C: Cluster>(cluster: &C, namespace: &str, own: &str) -> Check {
    if namespace == own {
        let message = format!("Target namespace is the pod namespace: {namespace}");
        return Check::new("k8s_namespace_exists", Level::Info, message);
    }
    match cluster.get_namespace(namespace).await {
        Ok(_) => {
            Check::new("k8s_namespace_exists", Level::Info, format!("Target namespace exists: {namespace}"))
        }
        Err(error) => Check::new(
            "k8s_namespace_check_failed",
            Level::Warn,
            format!("Cannot verify namespace \"{namespace}\": {error}"),
        )
        .hint(
            "The service account may lack cluster-level namespace read permissions. The namespace may still be \
             usable — verify RBAC checks below.",
        ),
    }
}

async fn check_permission<C: Cluster>(
    cluster: &C,
    permission: &Permission,
    namespace: &str,
    secret: &str,
) -> Check {
    let Permission { code, group, resource, verb, label, lack, gives } = *permission;
    // The Role grants reading one Secret only.
    let name = if (resource, verb) == ("secrets", "get") { secret } else { "" };
    match cluster.can_i(AccessReview { group, resource, verb, namespace, name }).await {
        Ok(true) => Check::new(code, Level::Info, format!("RBAC: allowed to {label} in {namespace}")),
        Ok(false) => {
            Check::new(code, lack, format!("RBAC: not allowed to {label} in {namespace}")).hint(format!(
                "Grant the service account permission to {verb} {resource} in namespace {namespace}.{gives}"
            ))
        }
        Err(error) => Check::new(code, Level::Warn, format!("RBAC check failed for {label}: {error}"))
            .hint("SelfSubjectAccessReview may not be available; verify permissions manually."),
    }
}

async fn check_secret<C: Cluster>(cluster: &C, namespace: &str, name: &str) -> Check {
    match cluster.get_secret(namespace, name).await {
        Ok(()) => Check::new(
            "k8s_secret_exists",
            Level::Info,
            format!("Secret \"{name}\" exists in namespace {namespace}"),
        ),
        Err(_) => Check::new(
            "k8s_secret_missing",
            Level::Warn,
            format!("Secret \"{name}\" not found in namespace {namespace}"),
        )
        .hint(format!(
            "Ensure the {name} Secret exists with keys for ANTHROPIC_API_KEY and/or AWS_BEARER_TOKEN_BEDROCK."
        )),
    }
}

async fn check_claim<C: Cluster>(cluster: &C, namespace: &str, claim: Option<&str>) -> Check {
    let Some(claim) = claim else {
        return Check::new(
            "k8s_pvc_not_detected",
            Level::Warn,
            "No PVC detected on /paperclip mount — session resume and workspace sharing will not work.",
        )
        .hint(
            "Ensure the Paperclip Deployment has a PVC mounted at /paperclip with ReadWriteMany access mode.",
        );
    };
    match cluster.claim_access_modes(namespace, claim).await {
        Ok(modes) if modes.iter().any(|mode| mode == "ReadWriteMany") => Check::new(
            "k8s_pvc_rwx",
            Level::Info,
            format!("PVC \"{claim}\" has ReadWriteMany access — Job pods can mount it."),
        ),
        Ok(modes) => Check::new(
            "k8s_pvc_not_rwx",
            Level::Warn,
            format!(
                "PVC \"{claim}\" access modes: {}. ReadWriteMany is required for Job pods to share the volume.",
                modes.join(", ")
            ),
        )
        .hint("Change the PVC accessMode to ReadWriteMany in Helm values."),
        Err(error) => {
            Check::new("k8s_pvc_check_failed", Level::Warn, format!("Could not read PVC \"{claim}\": {error}"))
        }
    }
}

/// Whether agents reach what of the host's own lies on the shared volume.
async fn check_volume(request: &Request, pod: &SelfPod) -> Option<Check> {
    let home = PathBuf::from(request.host_env.paperclip_home()?);
    if pod.pvc_claim_name.is_none()
        || request.grants.volume == VolumeMode::Scoped
        || !shared::is_on_the_volume(&home)
    {
        return None;
    }
    exposed(&shared::of_the_server_in(home).await)
}

fn exposed(found: &[String]) -> Option<Check> {
    let message = format!(
        "Agents can read and write what only Paperclip needs, on the volume that they share with it: {}",
        found.join(", ")
    );
    (!found.is_empty()).then(|| {
        Check::new("k8s_volume_exposes_host", Level::Warn, message).hint(
            "Set PAPERCLIP_K8S_VOLUME=scoped in Paperclip's environment, or keep these on another volume (docs/security.md).",
        )
    })
}

/// Whether the API server takes the Job of a run, and what of Paperclip's own pod the run would lack.
async fn check_job<C: Cluster>(cluster: &C, request: &Request, pod: &SelfPod) -> Vec<Check> {
    let env = &request.host_env;
    let url = env.get("PAPERCLIP_RUNTIME_API_URL").or_else(|| env.get("PAPERCLIP_API_URL"));
    let prepared = Prepared::of_environment_test(url, "environment test");
    let id = "environment-test".to_owned();
    let agent = Agent { id: id.clone(), company_id: id.clone(), name: id.clone() };
    let request = Request { run_id: id, agent, ..request.clone() };
    let manifest = match manifest::build(&request, pod, &prepared, None) {
        Ok(manifest) => manifest,
        Err(error) => return vec![Check::new("k8s_config_invalid", Level::Error, error.to_string())],
    };
    let sealed = match request.run_secret {
        RunSecretMode::Off => manifest.unsealed(),
        RunSecretMode::Auto | RunSecretMode::Require => manifest.sealed("test"),
    };
    let mut checks = Vec::new();
    match sealed {
        Err(error) => checks.push(Check::new("k8s_config_invalid", Level::Error, error.to_string())),
        Ok(sealed) => {
            let job = dry_run(cluster, &manifest.namespace, &sealed.job).await;
            let is_accepted = job.code == "k8s_job_accepted";
            checks.push(job);
            if is_accepted {
                checks.push(dry_run_of_pod(cluster, &manifest.namespace, sealed.job).await);
            }
        }
    }
    if request.run_secret == RunSecretMode::Off {
        let message =
            "Variables and prompt of runs stand in their Jobs in clear (PAPERCLIP_K8S_RUN_SECRET=off)";
        checks.push(Check::new("k8s_run_secret_off", Level::Warn, message));
    }
    let warnings = manifest.warnings.iter().chain(&pod.notes);
    checks.extend(warnings.map(|text| Check::new("k8s_pod_differs", Level::Warn, text.clone())));
    checks
}

async fn dry_run<C: Cluster>(cluster: &C, namespace: &str, job: &Job) -> Check {
    match cluster.try_job(namespace, job).await {
        Ok(warnings) if warnings.is_empty() => {
            Check::new("k8s_job_accepted", Level::Info, format!("The API server accepts Jobs in {namespace}"))
        }
        Ok(warnings) => Check::new(
            "k8s_job_accepted",
            Level::Warn,
            format!("The API server accepts Jobs in {namespace}, and warns"),
        )
        .detail(warnings.join("; ")),
        Err(error) => Check::new(
            "k8s_job_refused",
            level_of_refusal(&error),
            format!("The API server does not accept a run's Job: {error}"),
        )
        .hint("Correct the setting that the message names, or the policy of the namespace."),
    }
}

/// Whether the API server takes the pod of a run: much of what is wrong with a pod is no fault of its Job.
async fn dry_run_of_pod<C: Cluster>(cluster: &C, namespace: &str, job: Job) -> Check {
    let template = job.spec.unwrap_or_default().template;
    let of_template = template.metadata.unwrap_or_default();
    let metadata = ObjectMeta {
        name: job.metadata.name,
        namespace: Some(namespace.to_owned()),
        labels: of_template.labels,
        annotations: of_template.annotations,
        ..ObjectMeta::default()
    };
    match cluster.try_pod(namespace, &Pod { metadata, spec: template.spec, status: None }).await {
        Ok(()) => Check::new(
            "k8s_pod_accepted",
            Level::Info,
            format!("The API server accepts their pods in {namespace}"),
        ),
        Err(error) if is_of_rbac(&error) => Check::new(
            "k8s_pod_not_tried",
            Level::Info,
            format!("Whether the API server accepts their pods in {namespace} is not known"),
        )
        .hint("Grant the service account permission to create pods, or set testWithJob."),
        Err(error) => Check::new(
            "k8s_pod_refused",
            level_of_refusal(&error),
            format!("The API server does not accept a run's pod: {error}"),
        )
        .hint("Correct the setting that the message names, or the policy of the namespace."),
    }
}

/// Whether this account may not create pods at all. Quotas and policies answer 403 as well.
fn is_of_rbac(error: &ApiError) -> bool {
    error.kind == ApiErrorKind::Forbidden && error.message.contains("cannot create resource \"pods\"")
}

/// A webhook that does not know dry runs says nothing about a run.
fn level_of_refusal(error: &ApiError) -> Level {
    if error.message.contains("dry run") { Level::Warn } else { Level::Error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_on_the_shared_volume_are_warned_of() {
        assert_eq!(exposed(&[]), None);
        let check =
            exposed(&["plugins".to_owned(), "instances/default/secrets".to_owned()]).expect("a warning");
        assert_eq!((check.code, check.level), ("k8s_volume_exposes_host", Level::Warn));
        assert!(
            check.message.ends_with("share with it: plugins, instances/default/secrets"),
            "{}",
            check.message
        );
        assert!(check.hint.is_some_and(|hint| hint.contains("PAPERCLIP_K8S_VOLUME=scoped")));
    }
}
