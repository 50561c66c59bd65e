//! What a run's Job is made of, and whether it resumes a session.

use std::sync::Arc;
use std::time::Duration;

use crate::claude::is_session_id;
use crate::forensics::one_line;
use crate::manifest::{self, JobSession, Prepared, PromptBundle};
use crate::request::{Request, SessionPlace};
use crate::run::Host;
use crate::run::context::{Placement, RunContext};

/// What a run's Job is made of.
pub(crate) struct Plan {
    /// The request as this Job carries it out: without the session where that is not resumed.
    pub(super) request: Arc<Request>,
    pub(super) prepared: Prepared,
    pub(super) bundle: PromptBundle,
    /// What a session of the Job depends on.
    pub(super) place: SessionPlace,
    /// How much of the run's time an earlier Job has taken.
    pub(super) spent: Duration,
}

impl Plan {
    /// The plan of a run's first Job. A session that cannot work is left out, and the log says why.
    pub(super) async fn new<C, H: Host>(
        run: &RunContext<C, H>,
        placement: &Placement<C>,
        prepared: Prepared,
        bundle: PromptBundle,
    ) -> Self {
        let place = place_of(&run.request, placement, &prepared, &bundle);
        let mut request = run.request.clone();
        let session = &request.session_id;
        if !session.is_empty()
            && let Some(why) = why_not(session, &place, &request.stored_session)
        {
            let session = one_line(session);
            run.log.out(format!("[paperclip] Claude session \"{session}\" is not resumed: {why}")).await;
            request = Arc::new(request.without_session());
        }
        Self { request, prepared, bundle, place, spent: Duration::ZERO }
    }

    /// The plan of the run's second Job, which begins a new session.
    pub(crate) fn afresh(mut self, spent: Duration) -> Self {
        self.request = Arc::new(self.request.started_afresh(spent));
        self.spent = spent;
        self
    }

    /// How the Job's session is written into it.
    pub(super) fn session(&self) -> JobSession {
        JobSession { resumed: self.request.session_id.clone(), place: self.place.clone() }
    }

    /// The name of the Job.
    pub(super) fn job_name(&self) -> String {
        manifest::job_name_of(&self.request)
    }
}

fn why_not(session: &str, place: &SessionPlace, stored: &SessionPlace) -> Option<String> {
    let is_id = is_session_id(session);
    if is_id { place.refuses(stored) } else { Some("its id is not a UUID".to_owned()) }
}

fn place_of<C>(
    request: &Request,
    placement: &Placement<C>,
    prepared: &Prepared,
    bundle: &PromptBundle,
) -> SessionPlace {
    let text = |key: &str| request.context.workspace_text(key).map(str::to_owned);
    SessionPlace {
        cwd: Some(manifest::working_dir(request).to_owned()),
        workspace_id: text("workspaceId"),
        repo_url: text("repoUrl"),
        repo_ref: text("repoRef"),
        prompt_bundle_key: Some(bundle.bundle_key.clone()),
        mcp_server_identity: Some(prepared.mcp_server_identity.clone())
            .filter(|identity| !identity.is_empty()),
        namespace: Some(placement.namespace.clone()),
        volume_claim: placement.self_pod.pvc_claim_name.clone(),
        claude_home: manifest::claude_home(request),
    }
}
