//! One run's life, in stages.
//!
//! 1. `start`: queue behind the agent's other runs, claim the start, guard against live Jobs, prepare, create the Job or
//!    reattach to one.
//! 2. `finish`: wait for the pod, follow its `log`, wait for the end, and find out how it ended.
//! 3. `cleanup`: delete what the run created. `outcome` chooses the result.
//!
//! `runner` plays them in this order. The stages see a cluster through [`Cluster`](crate::cluster::Cluster) and the
//! control plane through [`Host`], so that a whole run can be played in memory under a paused clock (`scenarios`).

mod active;
mod afresh;
mod card;
mod cleanup;
mod context;
mod events;
mod finish;
mod folder;
mod host;
mod isolate;
mod job_view;
mod log;
mod overview;
mod preflight;
mod record;
mod runner;
mod shared;
mod start;
mod timing;
mod unconfirmed;

#[cfg(test)]
mod scenarios;

pub(crate) use host::{Host, HostError, StatusAnswer, StatusQuery};
pub(crate) use isolate::isolate;
pub(crate) use log::sink::LogSink;
pub(crate) use log::sink::{Delivery, recycle};
pub(crate) use runner::{RunError, Runner, failed_at_the_host};
#[cfg(feature = "compat")]
pub(crate) use start::bundle;
pub(crate) use start::queue::Turn;
