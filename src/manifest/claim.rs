//! The two inert Jobs by which hosts agree on which of them starts a run of an agent (see `run::start::claim`).
//!
//! Both have parallelism 0, so that no version of Kubernetes makes a pod of them (`suspend` is unknown before 1.21,
//! and there an unknown field is dropped), and the cluster itself collects both in the end.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, PodSecurityContext, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

use super::job::{seccomp, security_context};
use super::labels::{
    ANNOTATION_BARRED_FOR_JOB, ANNOTATION_CLAIM_FOR_JOB, ANNOTATION_CLAIM_HOLDER, CLAIM_CONTAINER,
    COMPONENT_CLAIM, LABEL_AGENT_ID, LABEL_COMPONENT, LABEL_MANAGED_BY, MANAGED_BY,
};
use super::slug;

/// After this many seconds the cluster ends a claim or barrier that no host removed, and collects it.
const FORGOTTEN_AFTER_SECONDS: i64 = 3600;

/// What a claim says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimFacts {
    /// The Job that its holder is about to create.
    pub(crate) job_name: String,
    /// Its holder: a value that no other run has.
    pub(crate) holder: String,
}

/// The name of the claim of one agent: `ac-{agent}-claim-{hash}`, a DNS-1123 label that no run's Job can have.
/// `agent_label` is the value by which the guard knows the agent.
pub(crate) fn claim_name(agent_label: &str) -> String {
    let digest = Sha256::digest(agent_label);
    let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("ac-{}-claim-{hash}", slug(agent_label))
}

/// The claim of a holder. `image` may be any image; no kubelet pulls it.
pub(crate) fn claim(agent_label: &str, facts: &ClaimFacts, image: &str) -> Job {
    let annotations = [(ANNOTATION_CLAIM_FOR_JOB, &facts.job_name), (ANNOTATION_CLAIM_HOLDER, &facts.holder)];
    inert(claim_name(agent_label), agent_label, annotations, image)
}

/// What a claim says; `None` when the Job is not a claim.
pub(crate) fn claim_facts(job: &Job) -> Option<ClaimFacts> {
    let annotations = job.metadata.annotations.as_ref()?;
    Some(ClaimFacts {
        job_name: annotations.get(ANNOTATION_CLAIM_FOR_JOB)?.clone(),
        holder: annotations.get(ANNOTATION_CLAIM_HOLDER)?.clone(),
    })
}

/// A Job that occupies the name of one that must not be created any more.
pub(crate) fn barrier(job_name: &str, for_job: &str, agent_label: &str, image: &str) -> Job {
    inert(job_name.to_owned(), agent_label, [(ANNOTATION_BARRED_FOR_JOB, &for_job.to_owned())], image)
}

/// The Job of the run that put up this barrier; `None` when the Job is not a barrier.
pub(crate) fn barred_for(job: &Job) -> Option<&str> {
    job.metadata.annotations.as_ref()?.get(ANNOTATION_BARRED_FOR_JOB).map(String::as_str)
}

fn inert<'a>(
    name: String,
    agent_label: &str,
    annotations: impl IntoIterator<Item = (&'a str, &'a String)>,
    image: &str,
) -> Job {
    let labels =
        [(LABEL_MANAGED_BY, MANAGED_BY), (LABEL_COMPONENT, COMPONENT_CLAIM), (LABEL_AGENT_ID, agent_label)];
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            annotations: Some(
                annotations
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value.clone()))
                    .collect::<BTreeMap<_, _>>(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            parallelism: Some(0),
            completions: Some(1),
            backoff_limit: Some(0),
            active_deadline_seconds: Some(FORGOTTEN_AFTER_SECONDS),
            ttl_seconds_after_finished: Some(0),
            template: PodTemplateSpec {
                // Admitted where `restricted` is enforced, though no pod is made of it.
                spec: Some(PodSpec {
                    automount_service_account_token: Some(false),
                    security_context: Some(PodSecurityContext {
                        run_as_non_root: Some(true),
                        seccomp_profile: Some(seccomp()),
                        ..PodSecurityContext::default()
                    }),
                    restart_policy: Some("Never".to_owned()),
                    containers: vec![Container {
                        name: CLAIM_CONTAINER.to_owned(),
                        image: Some(image.to_owned()),
                        command: Some(vec!["true".to_owned()]),
                        security_context: Some(security_context(1000)),
                        ..Container::default()
                    }],
                    ..PodSpec::default()
                }),
                ..PodTemplateSpec::default()
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{agent_selector, job_name};
    use super::*;

    fn facts() -> ClaimFacts {
        ClaimFacts { job_name: "ac-a-r-123456".to_owned(), holder: "h".to_owned() }
    }

    #[test]
    fn claim_and_barrier_start_no_pod_and_are_collected() {
        for job in [claim("agent", &facts(), "i"), barrier("ac-x", "ac-y", "agent", "i")] {
            let spec = job.spec.expect("spec");
            assert_eq!((spec.parallelism, spec.suspend), (Some(0), None));
            assert!(spec.active_deadline_seconds.is_some() && spec.ttl_seconds_after_finished == Some(0));
        }
    }

    #[test]
    fn claim_is_selected_by_neither_guard_nor_watch() {
        let labels = claim("agent", &facts(), "i").metadata.labels.expect("labels");
        assert!(!labels.contains_key(super::super::LABEL_ADAPTER_TYPE), "{}", agent_selector("agent"));
    }

    #[test]
    fn claim_and_barrier_are_recognised_by_their_annotations() {
        let (claim, barrier) = (claim("agent", &facts(), "i"), barrier("ac-x", "ac-y", "agent", "i"));
        assert_eq!((claim_facts(&claim), barred_for(&claim)), (Some(facts()), None));
        assert_eq!((claim_facts(&barrier), barred_for(&barrier)), (None, Some("ac-y")));
    }

    #[test]
    fn claim_name_is_never_that_of_a_runs_job() {
        let name = claim_name("agent");
        let hash = name.strip_prefix("ac-agent-claim-").expect("readable");
        assert_eq!(hash.len(), 12);
        for run in ["claim", name.as_str(), &format!("claim-{hash}"), &format!("claim-{}", &hash[..6])] {
            assert_ne!(job_name("agent", run), name);
        }
        assert_ne!(claim_name("agent"), claim_name("agent-2"));
        assert!(claim_name(&"x".repeat(63)).len() <= 63);
    }
}
