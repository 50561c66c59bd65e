//! What the host shows of a run that waits: a line on its run card, through `onRuntimeProgress`.
//!
//! A line is sent once for each change and never waited for. The host forgets it after a while, so it is sent again while
//! the run still waits.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::{Host, timing};
use crate::forensics::Step;

/// The most characters of a line; the host shows no more.
const MOST_CHARACTERS: usize = 180;

/// What a run waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Its turn: another run of the agent, or a queue of the cluster.
    Queued,
    /// A pod, and a node for it.
    Scheduling,
    /// An image.
    Pulling,
    /// The container.
    Starting,
    /// Nothing any more.
    Running,
}

impl Waits {
    fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "Queued",
            Self::Scheduling => "Scheduling",
            Self::Pulling => "Pulling",
            Self::Starting => "Starting",
            Self::Running => "Running",
        }
    }
}

impl From<Step> for Waits {
    fn from(step: Step) -> Self {
        match step {
            Step::Queue | Step::Gate => Self::Queued,
            Step::PodCreation | Step::Scheduling | Step::Admission => Self::Scheduling,
            Step::Image => Self::Pulling,
            Step::Volumes | Step::InitContainer | Step::ContainerStart => Self::Starting,
        }
    }
}

/// The last line that was sent.
struct Shown {
    waits: Waits,
    line: String,
    at: Instant,
}

/// A run's card at its host.
pub(crate) struct RunCard {
    send: Box<dyn Fn(String) + Send + Sync>,
    shown: Mutex<Option<Shown>>,
}

impl RunCard {
    pub(super) fn new<H: Host>(host: Arc<H>) -> Self {
        Self { send: Box::new(move |line| host.progress(line)), shown: Mutex::default() }
    }

    /// Shows what the run waits for, unless that is what the card shows.
    pub(super) fn show(&self, waits: Waits, text: &str) {
        let line: String = format!("{}: {text}", waits.as_str())
            .replace(['\r', '\n'], " ")
            .chars()
            .take(MOST_CHARACTERS)
            .collect();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shown) = shown.as_ref().filter(|shown| shown.waits == waits) {
            let pause = if shown.line == line { timing::CARD_REPEAT } else { timing::CARD_PAUSE };
            if shown.at.elapsed() < pause {
                return;
            }
        }
        *shown = Some(Shown { waits, line: line.clone(), at: Instant::now() });
        (self.send)(line);
    }
}
