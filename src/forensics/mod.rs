//! From what was seen of Jobs, Pods and output to a cause and a message. Nothing here can fail a run: what is
//! missing is called missing.

pub mod api;
pub mod job;
pub mod pod;
pub mod vanished;

pub use api::{is_not_found_message, should_abort_for_cancellation};
pub use job::{Expected, JobState, OrphanVerdict, classify_orphan, conditions_text, is_live};
pub use pod::{
    ContainerLife, Disruption, PodProgress, PodVerdict, TerminatedState, container_ended,
    describe_pod_terminated_error, describe_truncation_cause, disruption, is_terminal, terminated_state,
};
pub use vanished::{DetectionPath, Vanished, vanished_details};
