//! Following a container's log to its true end, exactly once per line.
//!
//! The end of a body proves nothing: a run's log is over when the body ended *and* the container has. Until then
//! the log is opened again from the last delivered line. One body is open at a time.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use super::sink::{CHUNK_BYTES, fresh};
use crate::claude::Tally;
use crate::cluster::watch::Seen;
use crate::cluster::{ApiError, ApiErrorKind, Cluster, LogBody, LogQuery, ReadResult};
use crate::forensics::{ContainerPhase, TerminatedState, container_phase};
use crate::manifest::CLAUDE_CONTAINER;
use crate::run::job_view::Observed;
use crate::run::{Log, timing};
use crate::stream::{LineSplitter, Resume, Verdict, join_pieces, split_stamp};

/// How the contract counts reconnects in its log line; we never give up, so the count stays at this.
const SHOWN_ATTEMPTS: u32 = 50;

/// What is known of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Life {
    /// It runs, as far as anybody knows.
    Running,
    /// It has terminated; how, where that was seen.
    Ended(Option<TerminatedState>),
    /// Its pod is gone.
    Gone,
}

impl Life {
    pub(crate) fn is_over(&self) -> bool {
        *self != Life::Running
    }
}

/// What stands where lines are missing for good.
const GAP: &str = "[paperclip] Log gap: the container's log was rotated while the stream was disconnected; \
                   lines are missing here";

/// Adds a line to the chunk; a chunk ends before a line that would take it over its size.
fn append(chunk: &mut String, full: &mut VecDeque<String>, line: &str) {
    if !chunk.is_empty() && chunk.len() + line.len() + 1 > CHUNK_BYTES {
        full.push_back(std::mem::take(chunk));
    }
    if chunk.capacity() == 0 {
        *chunk = fresh();
    }
    chunk.push_str(line);
    chunk.push('\n');
}

/// What a follower is doing, for the one who waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// A body is open; what it does not bring now it may bring later.
    Reading,
    /// No body is open: the last one broke, or the API refuses a new one for now.
    CutOff,
    /// The host has not taken the last chunk yet.
    Delivering,
}

/// When the agent last printed something, and what the follower is doing about it.
pub(crate) struct Progress {
    since: Instant,
    last_output: AtomicU64,
    doing: AtomicU8,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let doing = AtomicU8::new(Doing::Reading as u8);
        Self { since: Instant::now(), last_output: AtomicU64::new(0), doing }
    }

    fn output(&self) {
        let now = self.since.elapsed().as_millis();
        self.last_output.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When output last came, or was last taken by the host.
    pub(crate) fn last_output(&self) -> Instant {
        self.since + std::time::Duration::from_millis(self.last_output.load(Ordering::Relaxed))
    }

    fn now(&self, doing: Doing) {
        self.doing.store(doing as u8, Ordering::Relaxed);
    }

    pub(crate) fn doing(&self) -> Doing {
        match self.doing.load(Ordering::Relaxed) {
            0 => Doing::Reading,
            1 => Doing::CutOff,
            _ => Doing::Delivering,
        }
    }
}

/// A log on its way from the kubelet to the host and the tally.
pub(crate) struct Follower<C> {
    observed: Arc<Observed<C>>,
    pod: String,
    log: Log,
    life: Arc<watch::Sender<Life>>,
    progress: Arc<Progress>,
    readers: Readers,
    resume: Resume,
    pub(crate) tally: Tally,
    /// Whole lines that are not a full chunk yet.
    chunk: String,
    /// Full chunks on their way to the host.
    full: VecDeque<String>,
    /// The last body ended in the middle of a line.
    unfinished: bool,
    /// The last line of the body was not the container's.
    noise: bool,
    /// How often lines were missing.
    gaps: u64,
    /// The pod as it was when it was asked for last.
    pub(crate) last_read: Option<Pod>,
}

impl<C: Cluster> Follower<C> {
    pub(crate) fn new(
        observed: Arc<Observed<C>>,
        pod: String,
        log: Log,
        life: Arc<watch::Sender<Life>>,
        progress: Arc<Progress>,
        readers: Readers,
    ) -> Self {
        Self {
            observed,
            pod,
            log,
            life,
            progress,
            readers,
            resume: Resume::new(),
            tally: Tally::new(),
            chunk: String::new(),
            full: VecDeque::new(),
            unfinished: false,
            noise: false,
            gaps: 0,
            last_read: None,
        }
    }

    /// Reads until the container's log is over. May be dropped at any await and called again: lines that were
    /// delivered are not delivered twice.
    pub(crate) async fn run(&mut self) {
        let mut backoff = timing::reconnect_backoff();
        let mut fruitless = 0u32;
        let mut first = true;
        loop {
            if !first {
                fruitless += 1;
                let shown = fruitless.min(SHOWN_ATTEMPTS);
                self.log
                    .out(format!(
                        "[paperclip] Log stream disconnected — reconnecting (attempt {shown}/{SHOWN_ATTEMPTS})..."
                    ))
                    .await;
            }
            let lines_before = self.tally.so_far().lines;
            let ended = match self.open(true).await {
                Ok(body) => {
                    first = false;
                    self.progress.now(Doing::Reading);
                    self.read(body).await
                }
                Err(error) => BodyEnd::Refused(error),
            };
            if self.tally.so_far().lines > lines_before {
                fruitless = 0;
                backoff.reset();
            }
            let asked = match &ended {
                BodyEnd::Refused(error) => error.retry_after,
                _ => None,
            };
            if !matches!(ended, BodyEnd::Clean | BodyEnd::Noise) {
                self.progress.now(Doing::CutOff);
            }
            if self.is_over(ended).await {
                return;
            }
            // Once the container has ended somebody waits for the rest.
            let mut life = self.life.subscribe();
            let over = life.borrow_and_update().is_over();
            tokio::select! {
                () = tokio::time::sleep(backoff.pause(asked)) => {}
                _ = life.changed(), if !over => backoff.reset(),
            }
        }
    }

    /// Whether the log must be read once more after the container has ended: the result is not there, or the
    /// last line has no end yet.
    pub(crate) fn needs_another_look(&self) -> bool {
        self.unfinished || !self.tally.has_result()
    }

    /// The next body is asked from the log's beginning: nothing that was written is hidden by its stamp.
    pub(crate) fn start_over(&mut self) {
        self.resume.start_over();
    }

    /// Reads the log once without following it; only lines that were not delivered yet come out.
    pub(crate) async fn read_once(&mut self) -> Result<(), ApiError> {
        let mut body = self.open(false).await?;
        loop {
            match self.read(body).await {
                BodyEnd::Clean => {
                    self.finish_partial().await;
                    self.unfinished = false;
                    return Ok(());
                }
                BodyEnd::Broken(error) | BodyEnd::Refused(error) => return Err(error),
                BodyEnd::Noise => {
                    let message = "the answer is no log";
                    return Err(ApiError::local(ApiErrorKind::Server, "read the log", message));
                }
                BodyEnd::Silent => return Ok(()),
                // Once at most: the next body is asked from the log's beginning.
                BodyEnd::Reread => body = self.open(false).await?,
            }
        }
    }

    async fn open(&self, follow: bool) -> Result<LogBody, ApiError> {
        if self.pod.is_empty() {
            return Err(ApiError::local(
                ApiErrorKind::NotFound,
                "read the log",
                "the Job has no pod any more",
            ));
        }
        let since_time = self.resume.since().map(|stamp| stamp.floor_seconds_rfc3339());
        let query = LogQuery { follow, since_time };
        self.observed.cluster.open_log(&self.observed.namespace, &self.pod, CLAUDE_CONTAINER, &query).await
    }

    /// One body, to its end.
    async fn read(&mut self, body: LogBody) -> BodyEnd {
        self.resume.begin_body();
        let mut splitter = LineSplitter::new();
        self.noise = false;
        let mut bursts = Bursts::new(body, self.life.subscribe(), self.readers.clone());
        let end = loop {
            let mut reread = false;
            let read = bursts.try_read(|bytes| splitter.push(bytes, |line| reread |= self.take(line, true)));
            let all = match read {
                ReadResult::End => break BodyEnd::Clean,
                ReadResult::Broken(error) => break BodyEnd::Broken(error),
                ReadResult::Pending => true,
                ReadResult::Data { all } => {
                    self.progress.output();
                    self.flush_full().await;
                    all
                }
            };
            if reread {
                break BodyEnd::Reread;
            }
            if all {
                self.flush().await;
                if bursts.wait().await == Wait::Silence {
                    break BodyEnd::Silent;
                }
            }
        };
        self.flush().await;
        // What follows the last newline is a whole line only when the container had ended before the body did,
        // which a follow stream cannot tell: see `needs_another_look`.
        let partial = splitter.take_partial();
        self.unfinished = partial.is_some();
        if let Some(partial) = partial {
            self.noise = split_stamp(&partial).is_none();
            self.take(&partial, false);
        }
        self.resume.end_body();
        match end {
            // The container cannot have said that last, so there may be more; a result is enough, though.
            BodyEnd::Clean if self.noise && !self.tally.has_result() => BodyEnd::Noise,
            end => end,
        }
    }

    /// One line of a body. Returns true when the body must be read again from earlier.
    fn take(&mut self, raw: &[u8], complete: bool) -> bool {
        let raw = join_pieces(raw);
        let verdict = self.resume.line(&raw, complete);
        if complete {
            self.noise = matches!(verdict, Verdict::Noise(_));
        }
        let (gap, line) = match verdict {
            Verdict::Deliver(line) => (false, line),
            Verdict::Gap(line) => (true, line),
            Verdict::Duplicate | Verdict::Partial | Verdict::Noise(_) => return false,
            Verdict::Refetch => return true,
        };
        if gap {
            self.gaps += 1;
            let count =
                if self.gaps > 1 { format!(" (gap {} of this run)", self.gaps) } else { String::new() };
            append(&mut self.chunk, &mut self.full, &format!("{GAP}{count}"));
        }
        let text = self.tally.line(line);
        append(&mut self.chunk, &mut self.full, &text);
        false
    }

    /// Hands everything that is there to the host. A chunk leaves only when there is room for it, so that
    /// nothing is lost when this is dropped while waiting.
    pub(crate) async fn flush(&mut self) {
        if !self.chunk.is_empty() {
            self.full.push_back(std::mem::take(&mut self.chunk));
        }
        self.flush_full().await;
    }

    /// Hands over what fills chunks; the rest may still grow.
    async fn flush_full(&mut self) {
        while !self.full.is_empty() {
            self.progress.now(Doing::Delivering);
            let room = self.log.room().await;
            self.progress.now(Doing::Reading);
            // Taken off only now: a chunk is not lost when this is dropped while waiting.
            let Some(chunk) = self.full.pop_front() else { break };
            room.take(chunk);
            self.progress.output();
        }
    }

    async fn finish_partial(&mut self) {
        if let Some(line) = self.resume.finish_partial() {
            let text = self.tally.line(&line);
            append(&mut self.chunk, &mut self.full, &text);
            self.flush().await;
        }
    }

    /// Is that the end of the log, or only of a body?
    async fn is_over(&mut self, ended: BodyEnd) -> bool {
        let mut changes = self.life.subscribe();
        // The status of the container follows its last line by a moment.
        let patience = Instant::now() + timing::EXIT_STATUS_LAG;
        let mut pause = timing::LOG_END_FIRST;
        loop {
            let watched = self.observed.is_watched();
            match &ended {
                // The watch tells when the container ends; for a moment it is believed to be up to date.
                BodyEnd::Clean if watched && Instant::now() < patience => {}
                // Cut in mid-run: the log is opened again, and that shows whether the pod is still there.
                BodyEnd::Broken(_) | BodyEnd::Noise | BodyEnd::Silent | BodyEnd::Reread if watched => {}
                _ => self.try_read().await,
            }
            let life = changes.borrow_and_update().clone();
            match (life, &ended) {
                (Life::Ended(_), BodyEnd::Clean) => return true,
                (Life::Gone, _) => {
                    self.finish_partial().await;
                    return true;
                }
                // The container has ended and its log is refused for good: collected, or never written.
                (Life::Ended(_), BodyEnd::Refused(error)) => return !error.is_transient(),
                (Life::Ended(_), _) => return false,
                (Life::Running, BodyEnd::Clean) if Instant::now() < patience => {
                    if watched {
                        let _ = tokio::time::timeout_at(patience, changes.changed()).await;
                    } else {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(timing::LOG_END_LONGEST);
                    }
                }
                (Life::Running, _) => return false,
            }
        }
    }

    /// Looks at the pod and tells the others what was seen.
    async fn try_read(&mut self) {
        if self.life.borrow().is_over() {
            return;
        }
        let seen = match self.observed.pod_named(&self.pod).await {
            Ok(None) => Life::Gone,
            Ok(Some(pod)) => match container_phase(self.last_read.insert(pod), CLAUDE_CONTAINER) {
                ContainerPhase::Terminated(state) => Life::Ended(Some(state)),
                ContainerPhase::Waiting | ContainerPhase::Running => return,
            },
            // Not knowing is not an end.
            Err(error) if error.kind == ApiErrorKind::NotFound => Life::Gone,
            Err(_) => return,
        };
        self.life.send_replace(seen);
        if self.observed.is_watched() {
            // The watch should have told that.
            self.observed.watched.request_resync();
        }
    }
}

/// Tells how the container is as soon as a watch shows it.
pub(crate) async fn watch_life<C: Cluster>(
    observed: &Observed<C>,
    pod: &str,
    life: &watch::Sender<Life>,
) -> std::convert::Infallible {
    let mut changes = observed.watched.changes();
    loop {
        let seen = match changes.borrow_and_update().pods.get(pod) {
            Some(Seen::Present(pod)) => match container_phase(pod, CLAUDE_CONTAINER) {
                ContainerPhase::Terminated(state) => Some(Life::Ended(Some(state))),
                ContainerPhase::Waiting | ContainerPhase::Running => None,
            },
            Some(Seen::Deleted(_)) => Some(Life::Gone),
            Some(Seen::Unseen) | None => None,
        };
        if let Some(seen) = seen {
            life.send_if_modified(|life| {
                let news = !life.is_over();
                if news {
                    *life = seen;
                }
                news
            });
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// How many logs are followed at the moment, by all runs together, and when those that trickle are looked at.
#[derive(Clone)]
pub(crate) struct Readers {
    open: Arc<AtomicU32>,
    /// Looks are due at multiples of [`timing::READ_TICK`] from here on, so that many are made at one go.
    since: Instant,
}

impl Readers {
    pub(crate) fn new() -> Self {
        Self { open: Arc::default(), since: Instant::now() }
    }

    /// When a log that was looked at is looked at again: at a tick that is not over.
    fn next(&self, looked: Instant) -> Instant {
        let ticks = self.open.load(Ordering::Relaxed).div_ceil(timing::LOGS_PER_TICK);
        let pause = timing::READ_TICK * ticks.clamp(1, timing::MAX_TICKS);
        let due = (looked + pause).max(Instant::now()).saturating_duration_since(self.since).as_nanos();
        let tick = timing::READ_TICK.as_nanos();
        self.since + timing::READ_TICK * u32::try_from(due.div_ceil(tick)).unwrap_or(u32::MAX)
    }
}

/// What a wait was over with.
#[derive(Debug, PartialEq, Eq)]
enum Wait {
    /// Time for another look.
    ReadResult,
    /// Nothing came for [`timing::LOG_IDLE_LIMIT`].
    Silence,
}

/// A body, read in bursts: each look at a connection costs more than a line, so after one that found something there
/// is a rest, and the next byte is waited for only after one that found nothing, or much.
struct Bursts {
    body: LogBody,
    life: watch::Receiver<Life>,
    readers: Readers,
    /// When the burst began, and how much of it was read.
    since: Instant,
    bytes: usize,
}

impl Bursts {
    fn new(body: LogBody, life: watch::Receiver<Life>, readers: Readers) -> Self {
        readers.open.fetch_add(1, Ordering::Relaxed);
        Self { body, life, readers, since: Instant::now(), bytes: 0 }
    }

    /// What has arrived.
    fn try_read(&mut self, mut take: impl FnMut(&[u8])) -> ReadResult {
        self.body.try_read(&mut |bytes| {
            self.bytes += bytes.len();
            take(bytes);
        })
    }

    /// Until another look is worth it.
    async fn wait(&mut self) -> Wait {
        let rests = (1..timing::BUSY_LOG_BYTES).contains(&std::mem::take(&mut self.bytes));
        if rests && !self.life.borrow_and_update().is_over() {
            self.body.pause();
            let until = self.readers.next(self.since);
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                // Somebody waits for the end.
                _ = self.life.changed() => {}
            }
            // Not now, which is a moment later: the next tick would be missed.
            self.since = until;
            return Wait::ReadResult;
        }
        let ready = poll_fn(|context| self.body.poll_ready(context));
        let waited = tokio::time::timeout(timing::LOG_IDLE_LIMIT, ready).await;
        self.since = Instant::now();
        if waited.is_ok() { Wait::ReadResult } else { Wait::Silence }
    }
}

impl Drop for Bursts {
    fn drop(&mut self) {
        self.readers.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How one body ended.
enum BodyEnd {
    /// The server closed it.
    Clean,
    /// The server closed it after a line that is not the container's: an error text instead of the log.
    Noise,
    /// The connection broke.
    Broken(ApiError),
    /// Nothing came for [`timing::LOG_IDLE_LIMIT`].
    Silent,
    /// A fragment was met: the same lines must be asked for again.
    Reread,
    /// It was never opened.
    Refused(ApiError),
}
