//! Finds out whether a Job or pod that others delete goes with its whole namespace.
//!
//! `namespaces: get` says so where the Role grants it. Any Role that runs can use lets the run ask whether a Job would be
//! created, and a namespace that is being deleted refuses that with a reason of its own. The Role's binding may go with
//! the namespace, so the run asks as soon as it sees the deletion.

use std::convert::Infallible;

use tokio::time::timeout;

use crate::cluster::{ApiError, Cluster};
use crate::manifest;
use crate::run::context::RunContext;
use crate::run::job_view::Observed;
use crate::run::{Host, timing};

/// Asks once, as soon as a watch or a read of the run shows a deletion by others.
pub(super) async fn watch<C: Cluster, H: Host>(run: &RunContext<C, H>, observed: &Observed<C>) -> Infallible {
    let mut changes = observed.watched.changes();
    let keep = async {
        loop {
            run.record.see_snapshot(&changes.borrow_and_update());
            if changes.changed().await.is_err() {
                return std::future::pending::<Infallible>().await;
            }
        }
    };
    tokio::select! {
        never = keep => match never {},
        () = run.record.deleted_by_others() => {}
    }
    Box::pin(find(run, observed)).await;
    std::future::pending().await
}

/// Asks the cluster, once in the life of a run, and logs a namespace that is being deleted.
pub(super) async fn find<C: Cluster, H: Host>(run: &RunContext<C, H>, observed: &Observed<C>) {
    if !run.record.is_deleted_by_others() || run.record.is_namespace_read() {
        return;
    }
    // Only what the failure is called depends on it.
    let Ok(answer) = timeout(timing::NAMESPACE_LIMIT, is_terminating(run, observed)).await else { return };
    run.record.see_namespace(answer);
    if answer {
        run.log.out(format!("[paperclip] Namespace {} is being deleted", observed.namespace)).await;
    }
}

async fn is_terminating<C: Cluster, H: Host>(run: &RunContext<C, H>, observed: &Observed<C>) -> bool {
    let Observed { cluster, namespace, job_name, .. } = observed;
    // Whatever the error is, a 404 of something in between included, the creation tells.
    if let Ok(terminating) = cluster.get_namespace(namespace).await {
        return terminating;
    }
    // Any image will do: the Job has no pod, and is never created.
    let image = run.request.config.image.as_deref().unwrap_or("none");
    let name = manifest::claim_name(&run.agent_label);
    let job = manifest::barrier(&name, job_name, &run.agent_label, image);
    let refusal = cluster.try_job(namespace, &job).await.err();
    refusal.is_some_and(|error: ApiError| error.namespace_terminating || error.is_not_found())
}
