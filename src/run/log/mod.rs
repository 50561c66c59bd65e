//! A run's log, from the kubelet to the host.
//!
//! `follow` reads a container's log to its true end, `pacing` decides when it is read, `progress` says what the
//! follower is doing, and `sink` delivers the lines to the host.

pub(super) mod follow;
pub(super) mod pacing;
pub(super) mod progress;
pub(super) mod sink;
