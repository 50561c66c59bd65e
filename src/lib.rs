//! Runs Paperclip's Claude agents as Kubernetes Jobs.
//!
//! The map of the house (arrows point at what a room may use):
//!
//! ```text
//! node → run → { cluster, manifest, stream, forensics, outcome, request }
//! ```
//!
//! `request`, `manifest`, `stream`, `forensics` and `outcome` are pure: no I/O, no clock, no runtime. `run` is
//! one run's life; it reaches a cluster and a host only through the traits [`cluster::Cluster`] and
//! [`run::Host`]. `cluster::client` (feature `client`) is the only module that knows the Kubernetes client,
//! `node` (feature `binding`) the only one that knows napi.
#![deny(missing_docs)]
#![warn(unreachable_pub)]

pub mod claude;
pub mod cluster;
#[cfg(any(test, feature = "compat"))]
mod compat;
pub mod forensics;
mod js_semantics;
pub mod manifest;
#[cfg(feature = "binding")]
mod node;
pub mod outcome;
pub mod request;
pub mod run;
pub mod stream;
