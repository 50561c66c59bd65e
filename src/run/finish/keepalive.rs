//! Says now and then that a run goes on.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::cluster::Cluster;
use crate::run::card::{RunCard, Waits};
use crate::run::context::RunContext;
use crate::run::job_view::Observed;
use crate::run::log::progress::Progress;
use crate::run::timing::Grid;
use crate::run::{Host, LogSink, timing};

/// The keep-alive lines of a run; they end when it is dropped.
///
/// A task of their own: in the run's, each line would poll all that the run waits for, and thousands of silent runs do
/// little else.
#[must_use]
pub(super) struct Keepalive {
    _task: JoinSet<()>,
}

impl Keepalive {
    pub(super) fn start<C: Cluster, H: Host>(
        run: &RunContext<C, H>,
        observed: &Observed<C>,
        pod: &str,
        progress: Arc<Progress>,
    ) -> Self {
        let line = if run.request.host_has_cards {
            Line::Card { card: run.card.clone(), pod: pod.to_owned() }
        } else {
            Line::Log { log: run.log.clone(), job: observed.job_name.clone() }
        };
        let mut ticks = ticks(Instant::now(), run.grid);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                ticks.tick().await;
                line.show(rounded_seconds(progress.last_new().elapsed()));
            }
        });
        Self { _task: task }
    }
}

/// Where a run says that it goes on: on its card, where the host has one, and else in its log, as the contract has it.
enum Line {
    Card { card: Arc<RunCard>, pod: String },
    Log { log: LogSink, job: String },
}

impl Line {
    fn show(&self, quiet: u64) {
        match self {
            Self::Card { card, pod } => {
                if quiet >= timing::KEEPALIVE_INTERVAL.as_secs() {
                    card.show(Waits::Running, &format!("Claude runs in pod {pod}, last output {quiet}s ago"));
                }
            }
            Self::Log { log, job } => log.out_if_idle(format!(
                "[paperclip] keepalive — job {job} running ({quiet}s since last output)"
            )),
        }
    }
}

/// The times of a run's lines, which it shares with other runs.
fn ticks(started: Instant, grid: Grid) -> Interval {
    let first = grid.next(started + timing::KEEPALIVE_INTERVAL, timing::KEEPALIVE_TICK);
    let mut ticks = tokio::time::interval_at(first, timing::KEEPALIVE_INTERVAL);
    // One that comes late does not take the next ones off the grid.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

fn rounded_seconds(duration: Duration) -> u64 {
    // Half a second and more rounds up, as JavaScript's Math.round does.
    (duration.as_millis() as u64 + 500) / 1000
}
