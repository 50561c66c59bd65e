//! The host's callbacks as a [`Host`].

use std::sync::Arc;

use serde_json::Value;

use super::desk::{Question, Questions};
use super::status;
use crate::js_semantics;
use crate::manifest::Prepared;
use crate::outcome::StdStream;
use crate::run::bundle::{BundleOrder, Bundled};
use crate::run::{Delivery, Host, HostError, StatusAnswer, StatusQuery};

pub(super) struct NodeHost {
    pub(super) questions: Arc<Questions>,
    pub(super) run: u32,
}

impl NodeHost {
    async fn ask(&self, question: Question) -> Result<String, HostError> {
        Ok(self.questions.ask(self.run, question).await?.unwrap_or_default())
    }
}

impl Host for NodeHost {
    fn log(&self, stream: StdStream, chunk: String, delivery: Delivery) {
        self.questions.log(self.run, stream, chunk, delivery);
    }

    async fn meta(&self, meta: Value) -> Result<(), HostError> {
        self.ask(Question::Meta(meta.to_string())).await.map(drop)
    }

    async fn prepare(&self) -> Result<Prepared, HostError> {
        let json = self.ask(Question::Prepare).await?;
        Prepared::parse(&json)
            .map_err(|error| HostError(format!("the host's helpers gave an unusable answer: {error}")))
    }

    async fn bundle(&self, order: BundleOrder) -> Result<Bundled, HostError> {
        let order = serde_json::to_string(&order).map_err(|error| HostError(error.to_string()))?;
        let json = self.ask(Question::Bundle(order)).await?;
        let answer = js_semantics::parse_json(&json).and_then(serde_json::from_value);
        answer.map_err(|error| HostError(format!("the prompt bundle cannot be used: {error}")))
    }

    async fn run_status(&self, query: StatusQuery<'_>) -> StatusAnswer {
        status::ask(query).await
    }
}
