//! The host's callbacks as a [`Host`].

use serde_json::Value;

use super::{BundleFunction, LogFunction, MetaFunction, PrepareFunction, status};
use crate::js;
use crate::manifest::Prepared;
use crate::run::bundle::{BundleOrder, Bundled};
use crate::run::{Channel, Host, HostError, StatusAnswer, StatusQuery};

pub(super) struct NodeHost {
    pub(super) log: LogFunction,
    pub(super) meta: MetaFunction,
    pub(super) prepare: PrepareFunction,
    pub(super) bundle: BundleFunction,
}

/// The host could not be called, or its promise was lost: its environment is going away.
fn lost(error: napi::Error) -> HostError {
    HostError(error.reason.to_string())
}

/// Callbacks resolve to the text of their error.
fn told(answer: Option<String>) -> Result<(), HostError> {
    answer.map_or(Ok(()), |text| Err(HostError(text)))
}

impl Host for NodeHost {
    async fn log(&self, channel: Channel, text: String) -> Result<(), HostError> {
        let call = self.log.call_async_catch((channel.as_str().to_owned(), text).into());
        told(call.await.map_err(lost)?.await.map_err(lost)?)
    }

    async fn meta(&self, meta: Value) -> Result<(), HostError> {
        told(self.meta.call_async_catch((meta,).into()).await.map_err(lost)?.await.map_err(lost)?)
    }

    async fn prepare(&self) -> Result<Prepared, HostError> {
        let json = self.prepare.call_async_catch(()).await.map_err(lost)?.await.map_err(lost)?;
        Prepared::parse(&json)
            .map_err(|error| HostError(format!("the host's helpers gave an unusable answer: {error}")))
    }

    async fn bundle(&self, order: BundleOrder) -> Result<Bundled, HostError> {
        let order = serde_json::to_string(&order).map_err(|error| HostError(error.to_string()))?;
        let json = self.bundle.call_async_catch(order).await.map_err(lost)?.await.map_err(lost)?;
        let answer = js::parse_json(&json).and_then(serde_json::from_value);
        answer.map_err(|error| HostError(format!("the prompt bundle cannot be used: {error}")))
    }

    async fn run_status(&self, query: StatusQuery<'_>) -> StatusAnswer {
        status::ask(query).await
    }
}
