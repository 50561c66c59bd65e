//! Runs Paperclip's Claude agents as Kubernetes Jobs.
//!
//! Which module may use which (docs/architecture.md has the whole map):
//!
//! ```text
//! node → run → { cluster, manifest, claude, stream, forensics, outcome, request }
//! ```
//!
//! `request`, `manifest`, `claude`, `stream`, `forensics` and `outcome` are pure: no I/O, no clock, no runtime. `run`
//! is the life of one run; it reaches a cluster and a host only through the traits `cluster::Cluster` and
//! `run::Host`. `cluster::client` (feature `client`) is the only module that knows the Kubernetes client, `node`
//! (feature `binding`) the only one of the shipped addon that knows napi, and `compat` (feature `compat`) is for the parity
//! suite alone.
//!
//! Public is what `tools/bench/modules.rs` measures and `fuzz/main.rs` feeds.
#![deny(missing_docs)]
// A test's blocks are steps of its story.
#![cfg_attr(test, allow(clippy::excessive_nesting))]
// Without the binding only tests call a run.
#![cfg_attr(not(feature = "binding"), allow(dead_code, unused_imports))]

pub mod claude;
mod cluster;
#[cfg(any(test, feature = "compat"))]
mod compat;
mod expansion;
mod forensics;
mod js_semantics;
pub mod manifest;
#[cfg(feature = "binding")]
mod node;
mod outcome;
pub mod request;
mod run;
mod storable;
pub mod stream;
