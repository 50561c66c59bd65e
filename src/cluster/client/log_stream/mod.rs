//! The dedicated connection of a followed log.

mod framing;
pub(super) mod request;
pub(super) mod socket;
pub(super) mod tls;
