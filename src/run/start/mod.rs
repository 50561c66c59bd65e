//! Everything until a run's Job exists.

pub(super) mod announce;
pub(crate) mod bundle;
pub(super) mod claim;
mod create;
mod guard;
mod meta;
pub(super) mod plan;
mod prepare;
pub(super) mod queue;
mod reattach;
mod redact;
pub(super) mod run_secrets;
pub(super) mod self_pod;

use claim::{Claim, NoClaim};
use guard::{Orphan, Verdict};
use plan::Plan;
use queue::Turn;

use super::context::{LiveJob, Placement, RunContext, Stop};
use super::{Host, RunError, Runner};
use crate::cluster::Clusters;
use crate::manifest;

/// A Job that a run follows, and what it was made of.
pub(super) struct Started<C> {
    pub(super) job: LiveJob<C>,
    pub(super) plan: Plan,
}

impl<K: Clusters> Runner<K> {
    /// Starts the run's Job, or reattaches to the one that is there. Gives `turn` back when that is done and the
    /// agent's claim is released. `afresh`: the plan of the run's second Job.
    pub(super) async fn start<H: Host>(
        &self,
        run: &RunContext<K::Cluster, H>,
        turn: Turn,
        afresh: Option<Plan>,
    ) -> Result<Started<K::Cluster>, Stop> {
        let mut placement = self.placement(run).await?;
        if let Some(plan) = &afresh {
            placement.job_name = plan.job_name();
            run.record.place(&placement.namespace, &placement.job_name);
        }
        let mut claim = self.claim(run, &placement).await?;
        let started = Box::pin(self.start_claimed(run, &placement, &mut claim, afresh)).await;
        let Some(claim) = claim else { return started };
        let log = run.log.clone();
        let release = async move {
            if let Some(warning) = claim.release().await {
                log.err(warning).await;
            }
            drop(turn);
        };
        if started.is_ok() {
            // The run continues meanwhile; its cleanup waits for this.
            run.owned.await_at_the_end(tokio::spawn(release));
        } else {
            release.await;
        }
        started
    }

    /// Finds the cluster, the own pod, and where the Job goes.
    async fn placement<H: Host>(
        &self,
        run: &RunContext<K::Cluster, H>,
    ) -> Result<Placement<K::Cluster>, Stop> {
        let request = &run.request;
        let config = &request.config;
        let found = async {
            let cluster = self.cluster(request).await?;
            let self_pod = Box::pin(self.self_pods.read(cluster.as_ref(), request)).await?;
            Ok::<_, RunError>((cluster, self_pod))
        };
        let (cluster, self_pod) = run.unless_cancelled(found).await??;
        let namespace = config.namespace.clone().unwrap_or_else(|| self_pod.namespace.clone());
        let job_name = manifest::job_name(&request.agent.id, &request.run_id);
        run.record.place(&namespace, &job_name);
        Ok(Placement { cluster, namespace, job_name, self_pod: Box::new(self_pod) })
    }

    /// The agent's claim; `None` where the cluster takes no claims, which is logged once.
    async fn claim<H: Host>(
        &self,
        run: &RunContext<K::Cluster, H>,
        placement: &Placement<K::Cluster>,
    ) -> Result<Option<Claim<K::Cluster>>, Stop> {
        match claim::take(&self.claims, &self.active, run, placement).await {
            Ok(claim) => {
                tracing::debug!(run = run.request.run_id, job = placement.job_name, "claimed");
                Ok(Some(claim))
            }
            Err(NoClaim::Ended(outcome)) => Err(run.stop(outcome).await),
            Err(NoClaim::Stopped(stop)) => Err(stop),
            Err(NoClaim::Refused(error)) => {
                let namespace = &placement.namespace;
                tracing::debug!(run = run.request.run_id, namespace, error = error.message, "claim refused");
                let kubeconfig = run.request.config.kubeconfig.as_deref();
                // Without the namespace there is no Job either, and creating it says so.
                if !error.is_not_found() && self.claims.is_first_refusal(kubeconfig, namespace) {
                    run.log
                        .err(format!(
                            "[paperclip] Warning: cannot claim the start of this agent's runs in namespace {namespace} \
                             — two hosts that start one at the same moment would not see each other: {error}"
                        ))
                        .await;
                }
                Ok(None)
            }
        }
    }

    /// The Job to attach to, once nothing else of the agent is alive. The claim is given back while the run waits for the
    /// pods of an earlier run: a claim that does not move is taken for that of a dead host.
    async fn guarded<H: Host>(
        &self,
        run: &RunContext<K::Cluster, H>,
        placement: &Placement<K::Cluster>,
        claim: &mut Option<Claim<K::Cluster>>,
    ) -> Result<Option<Orphan>, Stop> {
        loop {
            let now = claim.as_ref().and_then(Claim::created);
            match run.unless_cancelled(guard::check(run, placement, now)).await?? {
                Verdict::Clear => return Ok(None),
                Verdict::Attach(orphan) => return Ok(Some(*orphan)),
                Verdict::Wait(pods) => {
                    if let Some(claim) = claim.take()
                        && let Some(warning) = claim.release().await
                    {
                        run.log.err(warning).await;
                    }
                    guard::wait_for_pods(run, placement, pods).await?;
                    *claim = self.claim(run, placement).await?;
                }
            }
        }
    }

    /// The stages under the agent's turn and claim.
    async fn start_claimed<H: Host>(
        &self,
        run: &RunContext<K::Cluster, H>,
        placement: &Placement<K::Cluster>,
        claim: &mut Option<Claim<K::Cluster>>,
        afresh: Option<Plan>,
    ) -> Result<Started<K::Cluster>, Stop> {
        let orphan = self.guarded(run, placement, claim).await?;
        let (id, job) = (&run.request.run_id, &placement.job_name);
        let orphaned = orphan.as_ref().map(|orphan| orphan.name.as_str());
        tracing::debug!(run = id, job, orphan = orphaned, "guarded");
        let plan = match afresh {
            Some(plan) => plan,
            None => {
                let prepared = run.unless_cancelled(run.host.prepare()).await??;
                let bundle = run.unless_cancelled(prepare::prepare_bundle(run, &prepared)).await??;
                Plan::new(run, placement, prepared, bundle).await
            }
        };
        tracing::debug!(run = id, job, "prepared");
        let Some(_creating) = self.active.may_create().await else {
            return Err(run.lost_host().await);
        };
        let job = match orphan {
            Some(orphan) => reattach::reattach(run, placement, orphan, claim.as_ref(), &plan).await,
            None => {
                let secrets = &self.run_secrets;
                Box::pin(create::create(run, placement, &plan, claim, secrets)).await
            }
        };
        self.active.add(run);
        Ok(Started { job: job?, plan })
    }
}
