//! The host's callbacks as a [`Host`].

use std::sync::Arc;

use serde_json::{Value, json};

use super::control_plane;
use super::mailbox::{Message, Queue};
use crate::manifest::Prepared;
use crate::outcome::StdStream;
use crate::run::{Delivery, Host, HostError, StatusAnswer, StatusQuery};

/// The host of one run: its callbacks are called through the mailbox of the run's environment.
pub(super) struct NodeHost {
    pub(super) queue: Arc<Queue>,
    /// The run's number in its environment.
    pub(super) run: u32,
}

impl NodeHost {
    async fn ask(&self, message: Message) -> Result<String, HostError> {
        Ok(self.queue.ask(self.run, message).await?.unwrap_or_default())
    }
}

impl Host for NodeHost {
    fn log(&self, stream: StdStream, chunk: String, delivery: Delivery) {
        self.queue.log(self.run, stream, chunk, delivery);
    }

    async fn meta(&self, meta: Value) -> Result<(), HostError> {
        self.ask(Message::Meta(meta.to_string())).await.map(drop)
    }

    fn progress(&self, line: String) {
        self.queue.send(self.run, Message::Progress(line));
    }

    async fn event(&self, event: Value) -> Result<bool, HostError> {
        Ok(self.ask(Message::Event(event.to_string())).await? == "taken")
    }

    fn note(&self, event: Value) {
        self.queue.send(self.run, Message::Event(event.to_string()));
    }

    async fn prepare(&self) -> Result<Prepared, HostError> {
        let json = self.ask(Message::Prepare).await?;
        Prepared::parse(&json)
            .map_err(|error| HostError(format!("the host's helpers gave an unusable answer: {error}")))
    }

    async fn link(&self, source: &str, target: &str) -> Result<(), HostError> {
        self.ask(Message::Link(json!([source, target]).to_string())).await.map(drop)
    }

    async fn run_status(&self, query: StatusQuery<'_>) -> StatusAnswer {
        control_plane::run_status(query).await
    }
}
