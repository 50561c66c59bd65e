//! A run's log: from the kubelet to the host.

pub(super) mod follow;
pub(super) mod sink;
