//! From what a run saw of its Job and pod to a cause and a message. Nothing here fails a run: what is not known is
//! reported as not known.

mod account;
mod cause;
mod container;
mod diagnosis;
mod disruption;
mod end;
mod event;
mod evidence;
#[cfg(test)]
mod fixtures;
mod host_status;
mod job;
mod overview;
mod pod;
mod reasons;
mod record;
mod start;
mod vanished;
mod words;

pub(crate) use account::{Account, Platform};
pub(crate) use cause::Cause;
pub(crate) use container::{
    ContainerPhase, TerminatedState, container_phase, describe_truncation_cause, pod_cause, terminated_state,
};
pub(crate) use disruption::{Deletion, Disruption, disruption, disruption_since, suspension};
pub(crate) use end::{
    Missing, claude_may_run, failing, has_sidecar, kept_by, missing_cause, node_is_silent, node_of,
    still_running,
};
pub(crate) use event::{hold_of_job_events, hold_of_pod_events, is_pulling};
pub(crate) use evidence::Evidence;
pub(crate) use host_status::should_abort_for_cancellation;
pub(crate) use job::{
    Expected, JobState, OrphanVerdict, classify_orphan, conditions_text, failure_words, is_live, queue_hold,
};
pub(crate) use overview::JobOverview;
pub(crate) use pod::{PodProgress, PodVerdict, is_terminal};
pub(crate) use reasons::{Grace, Hold, Step};
pub(crate) use record::{Asker, LogFacts, Record};
pub(crate) use start::{Creations, NothingStarted, StartFailure, StartRecord};
pub(crate) use vanished::{DetectionPath, Vanished, vanished_details};
pub(crate) use words::one_line;

#[cfg(feature = "compat")]
pub(crate) use container::describe_pod_terminated_error;

/// The text, unless it is empty: 0.1.49 treats both alike, as JavaScript does.
fn non_empty(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}
