//! Logs every 15 s that a run continues.
//!
//! One task does it for all runs, from one list, so that thousands of silent runs need neither a timer nor a task each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::run::card::{RunCard, Waits};
use crate::run::context::RunContext;
use crate::run::log::progress::Progress;
use crate::run::timing::{self, Grid};
use crate::run::{Host, LogSink};

/// How many ticks lie between two lines of a run.
const MOMENTS: u32 = (timing::KEEPALIVE_INTERVAL.as_secs() / timing::KEEPALIVE_TICK.as_secs()) as u32;

/// The keep-alive lines of all runs of the process; cheap to clone.
#[derive(Clone)]
pub(crate) struct Keepalives {
    grid: Grid,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// The runs that share a moment, by its number in [`MOMENTS`].
    runs: [Vec<Entry>; MOMENTS as usize],
    /// Whether there is a task that logs their lines.
    has_task: bool,
    last_id: u64,
}

/// A run that continues.
struct Entry {
    id: u64,
    /// The moment of its first line.
    first: u32,
    line: Line,
    progress: Arc<Progress>,
}

impl Keepalives {
    /// Without any run; the moments of its lines are on this grid.
    pub(crate) fn new(grid: Grid) -> Self {
        Self { grid, shared: Arc::default() }
    }

    fn add(&self, line: Line, progress: Arc<Progress>) -> Keepalive {
        let now = Instant::now();
        let first = self.grid.number(now + timing::KEEPALIVE_INTERVAL, timing::KEEPALIVE_TICK);
        let mut shared = self.lock();
        shared.last_id += 1;
        let id = shared.last_id;
        shared.runs[(first % MOMENTS) as usize].push(Entry { id, first, line, progress });
        if !std::mem::replace(&mut shared.has_task, true) {
            tokio::spawn(self.clone().log_lines());
        }
        drop(shared);
        Keepalive { all: self.clone(), id, first }
    }

    /// Logs the lines that are due at each tick, until there are no more runs.
    async fn log_lines(self) {
        let mut next = self.grid.number(Instant::now(), timing::KEEPALIVE_TICK);
        loop {
            tokio::time::sleep_until(self.grid.at(next, timing::KEEPALIVE_TICK)).await;
            // After a pause of the whole process each run logs one line, not all that it has missed.
            let passed = self.grid.number(Instant::now(), timing::KEEPALIVE_TICK).max(next);
            let mut shared = self.lock();
            for moment in next.max(passed.saturating_sub(MOMENTS - 1))..=passed {
                let entries = &shared.runs[(moment % MOMENTS) as usize];
                entries.iter().filter(|entry| entry.first <= moment).for_each(Entry::show);
            }
            if shared.runs.iter().all(Vec::is_empty) {
                shared.has_task = false;
                return;
            }
            next = passed + 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keep-alive lines of a run; they end when it is dropped.
#[must_use]
pub(super) struct Keepalive {
    all: Keepalives,
    id: u64,
    first: u32,
}

impl Keepalive {
    pub(super) fn start<C, H: Host>(
        run: &RunContext<C, H>,
        job: &str,
        pod: &str,
        progress: Arc<Progress>,
    ) -> Self {
        let line = if run.request.host_has_cards {
            Line::Card { card: run.card.clone(), pod: pod.to_owned() }
        } else {
            Line::Log { log: run.log.clone(), job: job.to_owned() }
        };
        run.keepalives.add(line, progress)
    }
}

impl Drop for Keepalive {
    fn drop(&mut self) {
        let gone = {
            let mut shared = self.all.lock();
            let entries = &mut shared.runs[(self.first % MOMENTS) as usize];
            entries.iter().position(|entry| entry.id == self.id).map(|at| entries.swap_remove(at))
        };
        drop(gone);
    }
}

/// Where a run shows that it continues: on its card, where the host has one, and else in its log, as the contract has it.
enum Line {
    Card { card: Arc<RunCard>, pod: String },
    Log { log: LogSink, job: String },
}

impl Entry {
    fn show(&self) {
        let quiet = rounded_seconds(self.progress.last_new().elapsed());
        match &self.line {
            Line::Card { card, pod } => {
                if quiet >= timing::KEEPALIVE_INTERVAL.as_secs() {
                    card.show(Waits::Running, &format!("Claude runs in pod {pod}, last output {quiet}s ago"));
                }
            }
            Line::Log { log, job } => log.out_if_idle(format!(
                "[paperclip] keepalive — job {job} running ({quiet}s since last output)"
            )),
        }
    }
}

fn rounded_seconds(duration: std::time::Duration) -> u64 {
    // Half a second and more rounds up, as JavaScript's Math.round does.
    (duration.as_millis() as u64 + 500) / 1000
}
