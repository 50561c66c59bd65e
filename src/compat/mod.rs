//! What only the existing package's own tests call: the helpers that 0.1.49 exports from its modules
//! (`docs/contract.md`, "Exported helpers").
//!
//! Not in the shipped addon. `npm run test:existing` builds an addon with the Cargo feature `compat` into a folder of
//! its own and runs the tests of 0.1.49 on that. What needs no cluster is compiled for this crate's tests too.

mod api_error;
#[cfg(feature = "compat")]
mod cluster;
mod dedup;
#[cfg(feature = "compat")]
mod exports;
mod login;
mod parse;
