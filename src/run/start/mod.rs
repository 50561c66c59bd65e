//! Everything until a run's Job exists.

pub mod bundle;
pub(super) mod claim;
pub(super) mod create;
pub(super) mod guard;
pub(super) mod queue;
pub(super) mod self_pod;
