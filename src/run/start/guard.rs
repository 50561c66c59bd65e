//! No other run of the agent may be alive (`docs/contract.md`, "Concurrency guard"). The guard fails closed and changes
//! nothing in the cluster.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::claude::EndToken;
use crate::cluster::{Cluster, retry};
use crate::forensics::{self, Expected};
use crate::manifest::{self, LABEL_RUN_ID, agent_selector};
use crate::outcome::Outcome;
use crate::request::Request;
use crate::run::context::{Placement, RunContext, Stop};
use crate::run::record::cause_of_guard;
use crate::run::{Host, timing};

/// A live Job of the same agent, task and session that another run left behind: the one to reattach to.
#[derive(Debug, Clone)]
pub(super) struct Orphan {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: Option<String>,
    prior_run: String,
    pub(super) image: String,
    pub(super) created: Option<Time>,
    pub(super) end_token: Option<EndToken>,
}

/// Checks all live Jobs of the agent. `None`: there are none.
pub(super) async fn check<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    placement: &Placement<C>,
) -> Result<Option<Orphan>, Stop> {
    let Placement { cluster, namespace, .. } = placement;
    let selector = agent_selector(&run.agent_label);
    let jobs =
        retry::with_budget(timing::SETUP_READ_BUDGET, || cluster.list_jobs(namespace, &selector)).await;
    let verdict = match jobs {
        Ok(jobs) => judge(&run.request, namespace, jobs),
        Err(error) => {
            Err(Box::new(Outcome::guard_unreachable(&error.to_string()).because(cause_of_guard(&error))))
        }
    };
    match verdict {
        Ok(orphan) => Ok(orphan),
        Err(outcome) => Err(run.stop(*outcome).await),
    }
}

/// The Job to reattach to, if any; an outcome when the run may not start.
fn judge(request: &Request, namespace: &str, jobs: Vec<Job>) -> Result<Option<Orphan>, Box<Outcome>> {
    let run_label = request.run_label();
    // Both sides in the one form a label can have: a raw run id never equals its own label.
    let (same_run, mut orphans): (Vec<Job>, Vec<Job>) = jobs
        .into_iter()
        .filter(forensics::is_live)
        .partition(|job| run_label.is_some() && label(job, LABEL_RUN_ID) == run_label.as_deref());

    let mut newest = None;
    if !orphans.is_empty() {
        if !request.config.reattach_orphaned_jobs {
            return Err(Box::new(Outcome::reattach_disabled(&names(&orphans))));
        }
        orphans.sort_by_key(|job| {
            std::cmp::Reverse(
                job.metadata.creation_timestamp.as_ref().map_or(i128::MIN, |time| time.0.as_nanosecond()),
            )
        });
        let (task, session) = (request.task_label(), request.session_label());
        let expected = Expected { task_id: task.as_deref(), session_id: session.as_deref() };
        for orphan in &orphans {
            let verdict = forensics::classify_orphan(orphan, &expected);
            if let Some(outcome) = Outcome::orphan_blocked(verdict, orphan.metadata.name.as_deref()) {
                return Err(Box::new(outcome));
            }
            newest.get_or_insert_with(|| Orphan::of(orphan, namespace));
        }
    }
    if !same_run.is_empty() {
        return Err(Box::new(Outcome::same_run_blocked(&names(&same_run))));
    }
    Ok(newest)
}

impl Orphan {
    /// The run it belongs to, as its label says.
    pub(super) fn prior_run(&self) -> &str {
        if self.prior_run.is_empty() { "unknown" } else { &self.prior_run }
    }

    fn of(job: &Job, namespace: &str) -> Self {
        let image = job
            .spec
            .as_ref()
            .and_then(|spec| spec.template.spec.as_ref())
            .and_then(|pod| pod.containers.first())
            .and_then(|container| container.image.clone());
        Self {
            name: name(job).to_owned(),
            namespace: job.metadata.namespace.clone().unwrap_or_else(|| namespace.to_owned()),
            uid: job.metadata.uid.clone(),
            prior_run: label(job, LABEL_RUN_ID).unwrap_or_default().to_owned(),
            image: image.unwrap_or_else(|| "unknown".to_owned()),
            created: job.metadata.creation_timestamp.clone(),
            end_token: manifest::end_token(job),
        }
    }
}

fn label<'a>(job: &'a Job, key: &str) -> Option<&'a str> {
    job.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str)
}

fn name(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or("unknown")
}

fn names(jobs: &[Job]) -> Vec<&str> {
    jobs.iter().map(name).collect()
}
