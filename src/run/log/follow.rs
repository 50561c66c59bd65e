//! Follows a container's log to its true end and delivers each line exactly once.
//!
//! The end of a body proves nothing: a log is over when its body has ended *and* the container has. Until then the log
//! is opened again from the last delivered line. One body is open at a time. (`docs/contract.md`, "Following the log".)

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pacing::{PacedReader, ReaderCount, Wake};
use super::progress::{Activity, Progress};
use super::sink::{CHUNK_BYTES, LogSink, chunk_buffer};
use crate::claude::Tally;
use crate::cluster::{ApiError, ApiErrorKind, Cluster, LogBody, LogQuery, ReadResult};
use crate::forensics::{ContainerPhase, LogFacts, container_phase};
use crate::manifest::CLAUDE_CONTAINER;
use crate::run::job_view::{ContainerState, Observed};
use crate::run::timing;
use crate::stream::{Gap, Lag, LineSplitter, Resume, Splice, Stamp, Verdict, join_pieces, split_stamp};

/// The number of attempts in the contract's log line. A follower never gives up, so its count stays at this.
const SHOWN_ATTEMPTS: u32 = 50;

/// The line that stands where lines are missing for good.
const fn gap_line(gap: Gap) -> &'static str {
    match gap {
        Gap::Rotated => {
            "[paperclip] Log gap: the container's log was rotated while the stream was disconnected; lines are missing here"
        }
        Gap::RotatedWhileFollowed => {
            "[paperclip] Log gap: the container's log was rotated while it was being followed; lines may be missing here"
        }
        Gap::Stuck => {
            "[paperclip] Log gap: the container's log breaks off at the same place each time it is read; lines may be missing \
             here"
        }
    }
}

/// Adds a line to the chunk. A chunk ends before a line that would make it larger than [`CHUNK_BYTES`].
fn append(chunk: &mut String, full_chunks: &mut VecDeque<String>, line: &str) {
    if !chunk.is_empty() && chunk.len() + line.len() + 1 > CHUNK_BYTES {
        full_chunks.push_back(std::mem::take(chunk));
    }
    if chunk.capacity() == 0 {
        *chunk = chunk_buffer();
    }
    chunk.push_str(line);
    chunk.push('\n');
}

/// How one body ended.
enum BodyEnd {
    /// The server closed it.
    Clean,
    /// The server closed it after a line that the container did not print: an error text instead of the log.
    Noise,
    /// The connection broke.
    Broken(ApiError),
    /// Nothing came for [`Follower::idle_limit`], or nothing new, see [`Follower::is_exhausted`].
    Idle,
    /// It begins with the fragment of a line: the same lines must be requested again, from earlier.
    Reread,
    /// It was never opened.
    Refused(ApiError),
    /// The container has said its own end, and nothing more can come.
    Told,
}

/// How the following of a log ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogEnd {
    /// The container has ended, and its log was read to the end.
    Read,
    /// The pod's last line said that the CLI has ended with 0, and the CLI's own last word is a result. What the pod's
    /// status says of it is not known yet.
    Told,
}

/// Reads a container's log and hands it to the host and the tally.
pub(crate) struct Follower<C> {
    observed: Arc<Observed<C>>,
    /// The pod's name; empty when the Job has no pod.
    pub(crate) pod: String,
    log: LogSink,
    /// What the run knows of the container. The follower, the watches and the wait for the run's end share it.
    pub(crate) container: Arc<watch::Sender<ContainerState>>,
    pub(crate) progress: Arc<Progress>,
    readers: ReaderCount,
    /// How long a body may be silent while the container runs. A log that was found to have nothing new is not checked so
    /// soon again.
    idle_limit: Duration,
    resume: Resume,
    splice: Splice,
    pub(crate) tally: Tally,
    /// Whole lines that are not a full chunk yet.
    chunk: String,
    /// Full chunks that are to be delivered.
    full_chunks: VecDeque<String>,
    /// Whether the last body ended in the middle of a line.
    ended_in_mid_line: bool,
    /// Whether the last line of the body was not the container's.
    ended_in_noise: bool,
    /// When the container was first seen to have ended.
    over_since: Option<Instant>,
    /// When the log could last not be read at all: what it has to say was not seen then.
    unread_at: Option<Instant>,
    /// Why the log could not be read to its end, when it was tried last; `None` when that went well, or the pod was gone.
    pub(crate) unreadable: Option<ApiError>,
    /// Whether the first refusal was logged.
    refusal_logged: bool,
    /// The exit code that the pod's last line says, while it is the last line that was read.
    told: Option<u8>,
    /// An empty line is held back: before its last line the pod prints a newline that is not the CLI's.
    holds_empty_line: bool,
    /// How many bytes of the unfinished last line were not kept.
    partial_left_out: u64,
    /// How late the log is read.
    lag: Lag,
    /// When the bytes that are being taken were read, since the follower was made.
    read_at: Duration,
    made_at: Instant,
    /// How often lines were missing.
    gaps: u64,
    /// How often the log was opened again.
    reconnects: u64,
    /// When the container printed its first line.
    first: Option<Stamp>,
    /// The pod as it was last read.
    pub(crate) last_pod: Option<Pod>,
}

impl<C: Cluster> Follower<C> {
    pub(crate) fn new(observed: Arc<Observed<C>>, pod: String, log: LogSink, readers: ReaderCount) -> Self {
        Self {
            observed,
            pod,
            log,
            container: Arc::new(watch::channel(ContainerState::Running).0),
            progress: Arc::new(Progress::new()),
            readers,
            idle_limit: timing::LOG_IDLE_LIMIT,
            resume: Resume::new(),
            splice: Splice::default(),
            tally: Tally::new(),
            chunk: String::new(),
            full_chunks: VecDeque::new(),
            ended_in_mid_line: false,
            ended_in_noise: false,
            over_since: None,
            unread_at: None,
            unreadable: None,
            refusal_logged: false,
            told: None,
            holds_empty_line: false,
            partial_left_out: 0,
            lag: Lag::default(),
            read_at: Duration::ZERO,
            made_at: Instant::now(),
            gaps: 0,
            reconnects: 0,
            first: None,
            last_pod: None,
        }
    }

    /// Reads until the container's log is over. May be dropped at any await and called again: lines that were delivered
    /// are not delivered twice.
    pub(crate) async fn run(&mut self) -> LogEnd {
        let mut backoff = timing::reconnect_backoff();
        let mut fruitless = 0;
        let mut opened = false;
        let mut was_cut = false;
        let mut was_idle = false;
        loop {
            if opened {
                self.reconnects += 1;
            }
            // A body that was merely silent was not disconnected.
            if opened && !was_idle {
                fruitless += 1;
                self.log_reconnect(fruitless).await;
            }
            let lines_before = self.tally.so_far().lines;
            let end = match self.open(true).await {
                Ok(body) => {
                    opened = true;
                    if std::mem::take(&mut was_cut) {
                        self.progress.record_resumed();
                    }
                    self.progress.set_activity(Activity::Reading);
                    self.read(body).await
                }
                Err(error) => BodyEnd::Refused(error),
            };
            if self.tally.so_far().lines > lines_before {
                fruitless = 0;
                backoff.reset();
            }
            if let BodyEnd::Refused(error) = &end {
                self.unread_at = Some(Instant::now());
                self.log_refusal(error).await;
            }
            let is_noise = matches!(end, BodyEnd::Noise);
            was_idle = matches!(end, BodyEnd::Idle);
            if was_idle {
                self.idle_limit = longer(self.idle_limit);
            }
            let retry_after = match &end {
                BodyEnd::Refused(error) => error.retry_after,
                _ => None,
            };
            if !matches!(end, BodyEnd::Clean | BodyEnd::Noise | BodyEnd::Told) {
                self.progress.set_activity(Activity::CutOff);
            }
            was_cut |= matches!(end, BodyEnd::Broken(_) | BodyEnd::Refused(_));
            if self.is_over(end).await || self.is_exhausted() || (is_noise && self.is_noise_final()) {
                let told = self.has_told_success() && !self.container.borrow().is_over();
                return if told { LogEnd::Told } else { LogEnd::Read };
            }
            // Once the container has ended, the run waits for the rest: the pause starts over at the shortest.
            let mut container = self.container.subscribe();
            let over = container.borrow_and_update().is_over();
            tokio::select! {
                () = tokio::time::sleep(backoff.pause(retry_after)) => {}
                _ = container.changed(), if !over => backoff.reset(),
            }
        }
    }

    async fn log_reconnect(&self, attempt: u32) {
        let shown = attempt.min(SHOWN_ATTEMPTS);
        self.log
            .out(format!(
                "[paperclip] Log stream disconnected — reconnecting (attempt {shown}/{SHOWN_ATTEMPTS})..."
            ))
            .await;
    }

    /// Logs the first refusal that is no mere overload: a run may end without a line of its log because of it.
    async fn log_refusal(&mut self, error: &ApiError) {
        if error.is_transient() || error.is_not_found() || std::mem::replace(&mut self.refusal_logged, true) {
            return;
        }
        let pod = &self.pod;
        self.log
            .err(format!(
                "[paperclip] Warning: the log of pod {pod} cannot be opened: {error} — trying again until the run ends"
            ))
            .await;
    }

    /// Whether the log must be read once more after the container has ended: its last word is no result, or its last
    /// line has no end yet.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.ended_in_mid_line || !self.tally.is_result_last_word()
    }

    /// Whether the container has ended and its log has brought nothing new for [`timing::LOG_NOTHING_NEW_LIMIT`], whatever
    /// was received again.
    fn is_exhausted(&mut self) -> bool {
        self.time_since_end().is_some_and(|ended| {
            let new = self.progress.last_new().max(self.unread_at.unwrap_or(self.progress.last_new()));
            ended.min(new.elapsed()) >= timing::LOG_NOTHING_NEW_LIMIT
        })
    }

    /// Whether an error text instead of the log is all that will come any more.
    fn is_noise_final(&mut self) -> bool {
        self.time_since_end().is_some_and(|ended| ended >= timing::LOG_NOISE_LIMIT)
    }

    /// For how long the container is known to have ended.
    fn time_since_end(&mut self) -> Option<Duration> {
        let over = self.container.borrow().is_over();
        over.then(|| self.over_since.get_or_insert_with(Instant::now).elapsed())
    }

    /// Whether the last body was an error text instead of the log.
    pub(crate) fn is_refused_by_text(&self) -> bool {
        self.ended_in_noise
    }

    /// Requests the next body from the log's beginning, so that no line is hidden by its stamp.
    pub(crate) fn start_over(&mut self) {
        self.resume.start_over();
    }

    /// Reads the log once without following it, and delivers only lines that were not delivered yet.
    pub(crate) async fn read_once(&mut self) -> Result<(), ApiError> {
        let mut body = self.open(false).await?;
        loop {
            match self.read(body).await {
                BodyEnd::Clean | BodyEnd::Told => {
                    self.finish_partial().await;
                    self.ended_in_mid_line = false;
                    return Ok(());
                }
                BodyEnd::Broken(error) | BodyEnd::Refused(error) => return Err(error),
                BodyEnd::Noise => {
                    let no_log = || {
                        ApiError::local(ApiErrorKind::Server, "read the log", "the answer is an error text")
                    };
                    return Err(self.unreadable.clone().unwrap_or_else(no_log));
                }
                BodyEnd::Idle => {
                    self.note_unread_rest();
                    return Ok(());
                }
                // Once at most: the next body is requested from the log's beginning.
                BodyEnd::Reread => body = self.open(false).await?,
            }
        }
    }

    /// How the log was read so far.
    pub(crate) fn facts(&self) -> LogFacts {
        let read = self.tally.so_far();
        let time = |stamp: Stamp| jiff::Timestamp::from_nanosecond(stamp.nanos().into()).ok();
        LogFacts {
            bytes: read.stdout_bytes,
            lines: read.lines,
            gaps: self.gaps,
            reconnects: self.reconnects,
            first: self.first.and_then(time),
            last: self.resume.last().and_then(time),
            forbidden: self.unreadable.as_ref().is_some_and(|error| error.kind == ApiErrorKind::Forbidden),
        }
    }

    async fn open(&mut self, follow: bool) -> Result<LogBody, ApiError> {
        let opened = self.request_body(follow).await;
        self.unreadable = opened.as_ref().err().filter(|error| !error.is_not_found()).cloned();
        opened
    }

    async fn request_body(&self, follow: bool) -> Result<LogBody, ApiError> {
        if self.pod.is_empty() {
            return Err(ApiError::local(
                ApiErrorKind::NotFound,
                "read the log",
                "the Job has no pod any more",
            ));
        }
        let since_time = self.resume.since().map(Stamp::floor_seconds_rfc3339);
        let query = LogQuery { follow, since_time };
        self.observed.cluster.open_log(&self.observed.namespace, &self.pod, CLAUDE_CONTAINER, &query).await
    }

    /// Reads one body to its end.
    async fn read(&mut self, body: LogBody) -> BodyEnd {
        self.resume.begin_body();
        let mut splitter = LineSplitter::new();
        self.ended_in_noise = false;
        let mut last_data = None;
        let mut reader = PacedReader::new(body, self.container.subscribe(), self.readers.clone());
        // Whether the body was read once more after the pod's last line: stderr comes on another way than stdout.
        let mut read_since_told = false;
        let end = loop {
            let mut reread = false;
            self.read_at = self.made_at.elapsed();
            let read = reader.try_read(|bytes| {
                splitter.push(bytes, |line, left_out| reread |= self.take_line(line, left_out, true));
            });
            let all = match read {
                ReadResult::End => break BodyEnd::Clean,
                ReadResult::Broken(error) => break BodyEnd::Broken(error),
                ReadResult::Pending => true,
                ReadResult::Data { all } => {
                    last_data = Some(Instant::now());
                    self.progress.record_output();
                    self.flush_full_chunks().await;
                    all
                }
            };
            if reread {
                break BodyEnd::Reread;
            }
            if self.is_exhausted() {
                break BodyEnd::Idle;
            }
            if all {
                self.flush().await;
                match self.wait_for_more(&mut reader, read_since_told).await {
                    Some(end) => break end,
                    None => read_since_told = self.told.is_some(),
                }
            }
        };
        self.flush().await;
        // What follows the last newline is a whole line only when the container had ended before the body did. A
        // followed body does not show that: see `is_incomplete`.
        let partial = splitter.take_partial();
        self.ended_in_mid_line = partial.is_some();
        if let Some((partial, left_out)) = partial {
            self.ended_in_noise = split_stamp(&partial).is_none();
            if self.ended_in_noise {
                self.note_noise(&partial);
            }
            self.take_line(&partial, left_out, false);
        }
        if last_data.is_none()
            && let BodyEnd::Broken(error) = &end
        {
            self.unread_at = Some(Instant::now());
            self.unreadable = Some(error.clone());
        }
        self.resume.end_body(last_data.is_some_and(|at: Instant| at.elapsed() < timing::LOG_CUT_OFF_LAG));
        match end {
            // The container did not print the last line, so more may follow; with a result nothing more is needed.
            BodyEnd::Clean if self.ended_in_noise && !self.tally.is_result_last_word() => BodyEnd::Noise,
            end => end,
        }
    }

    /// Waits until it is worth reading a body again. `read_since_told`: it was read once more after the pod's last line.
    async fn wait_for_more(&self, reader: &mut PacedReader, read_since_told: bool) -> Option<BodyEnd> {
        let Some(code) = self.told else {
            if reader.wait(self.idle_limit).await == Wake::Read {
                return None;
            }
            return Box::pin(self.wait_for_silent(reader)).await;
        };
        if !read_since_told {
            tokio::time::sleep(timing::TOLD_SETTLE).await;
            return None;
        }
        if self.has_told_success() {
            return Some(BodyEnd::Told);
        }
        self.observed.end_said.send_if_modified(|said| said.replace(Instant::now()).is_none());
        // The pod's status says why. Where it says the same code, nothing more can come.
        let mut container = self.container.subscribe();
        let same_end = container.wait_for(|state| state.exit_code() == Some(i32::from(code)));
        tokio::select! {
            wake = reader.wait(self.idle_limit) => (wake == Wake::Idle).then_some(BodyEnd::Idle),
            Ok(_) = same_end => Some(BodyEnd::Told),
        }
    }

    /// Waits for a silent body, while the log is checked for lines that the body has not brought: a request for the last line
    /// costs a fraction of opening the log again.
    async fn wait_for_silent(&self, reader: &mut PacedReader) -> Option<BodyEnd> {
        if self.container.borrow().is_over() {
            return Some(BodyEnd::Idle);
        }
        // A task of its own: in the run's, each step of each request would poll all that the run waits for.
        let mut checks = JoinSet::new();
        checks.spawn(until_not_silent(
            self.observed.clone(),
            self.pod.clone(),
            self.resume.last(),
            self.idle_limit,
        ));
        tokio::select! {
            wake = reader.wait(Duration::MAX) => (wake == Wake::Idle).then_some(BodyEnd::Idle),
            _ = checks.join_next() => Some(BodyEnd::Idle),
        }
    }

    /// Whether the pod's last line says that the CLI has ended with 0 after its result.
    fn has_told_success(&self) -> bool {
        self.told == Some(0) && self.tally.is_result_last_word()
    }

    /// Takes one line of a body, of which `left_out` bytes at the end were not kept. Returns true when the body must be
    /// requested again, from earlier.
    fn take_line(&mut self, raw: &[u8], left_out: u64, complete: bool) -> bool {
        let raw = join_pieces(raw);
        if self.first.is_none() {
            self.first = split_stamp(&raw).map(|(stamp, _)| stamp);
        }
        let verdict = self.resume.line(&raw, complete);
        if complete {
            self.ended_in_noise = matches!(verdict, Verdict::Noise(_));
        }
        let (gap, line) = match verdict {
            Verdict::Deliver(line) => (None, line),
            Verdict::Gap(gap, line) => (Some(gap), line),
            Verdict::Duplicate => return false,
            Verdict::Partial => {
                self.partial_left_out = left_out;
                return false;
            }
            Verdict::Noise(text) => {
                self.note_noise(text);
                return false;
            }
            Verdict::Refetch => return true,
        };
        self.progress.record_new();
        self.idle_limit = timing::LOG_IDLE_LIMIT;
        self.unreadable = None;
        let may_be_after_a_hole =
            self.resume.last().is_some_and(|stamp| self.lag.line(stamp, raw.len(), self.read_at));
        if let Some(gap) = gap.or(may_be_after_a_hole.then_some(Gap::RotatedWhileFollowed)) {
            self.gaps += 1;
            let count =
                if self.gaps > 1 { format!(" (gap {} of this run)", self.gaps) } else { String::new() };
            append(&mut self.chunk, &mut self.full_chunks, &format!("{}{count}", gap_line(gap)));
        }
        self.take_text(line, left_out);
        false
    }

    /// Takes a line that no earlier body had.
    fn take_text(&mut self, line: &[u8], left_out: u64) {
        let Some(token) = &self.observed.end_token else { return self.add_line(line, left_out) };
        self.told = token.exit_code(line);
        self.observed.end_said.send_if_modified(|said| said.take().is_some());
        if self.told.is_some() {
            self.holds_empty_line = false;
            self.release_splice();
            return;
        }
        self.release_empty_line();
        if line.is_empty() {
            self.holds_empty_line = true;
        } else {
            self.add_line(line, left_out);
        }
    }

    /// Adds the empty line that was held back: it was the CLI's.
    fn release_empty_line(&mut self) {
        if std::mem::take(&mut self.holds_empty_line) {
            self.add_line(b"", 0);
        }
    }

    /// Adds a line of the container, without what stderr wrote into it.
    fn add_line(&mut self, line: &[u8], left_out: u64) {
        if left_out > 0 {
            // What is not whole is none of the CLI's events.
            self.release_splice();
            return self.add_whole_line(line, left_out);
        }
        let mut splice = std::mem::take(&mut self.splice);
        splice.push(line, |line| self.add_whole_line(line, 0));
        self.splice = splice;
    }

    /// Adds what is held back of a long line: nothing more of it comes.
    fn release_splice(&mut self) {
        std::mem::take(&mut self.splice).finish(|line| self.add_whole_line(line, 0));
    }

    /// Adds a line of the CLI to the tally and to the chunk, and names what was left out of it.
    fn add_whole_line(&mut self, line: &[u8], left_out: u64) {
        let events = self.tally.so_far().events;
        let (text, left_out) = self.tally.line(line, left_out);
        if self.tally.so_far().events > events {
            self.progress.record_event();
        }
        self.progress.set_result_is_last(self.tally.is_result_last_word());
        append(&mut self.chunk, &mut self.full_chunks, &text);
        if left_out > 0 {
            let notice = format!(
                "[paperclip] Line too long: its first {} bytes are above, {left_out} bytes are left out here",
                text.len()
            );
            append(&mut self.chunk, &mut self.full_chunks, &notice);
        }
    }

    /// Keeps the error text that came instead of the log.
    fn note_noise(&mut self, text: &[u8]) {
        let text: String = String::from_utf8_lossy(text).chars().take(300).collect();
        self.unreadable = Some(ApiError::local(ApiErrorKind::Server, "read the log", text));
    }

    /// Keeps that the log has not come to its end, unless a reason is known already.
    pub(crate) fn note_unread_rest(&mut self) {
        let stalled = || ApiError::local(ApiErrorKind::Timeout, "read the log", "it did not come to its end");
        self.unreadable.get_or_insert_with(stalled);
    }

    /// Delivers every whole line that was read. A chunk leaves only when there is a slot for it, so that nothing is
    /// lost when this is dropped while it waits; and when the run is over and its host takes nothing any more.
    pub(crate) async fn flush(&mut self) {
        if !self.chunk.is_empty() {
            self.full_chunks.push_back(std::mem::take(&mut self.chunk));
        }
        self.flush_full_chunks().await;
    }

    /// Delivers full chunks; the last chunk may still grow.
    async fn flush_full_chunks(&mut self) {
        while !self.full_chunks.is_empty() {
            self.progress.set_activity(Activity::Delivering);
            let bytes = self.full_chunks.front().map_or(0, String::len);
            let asked = Instant::now();
            let slot = self.log.slot(bytes).await;
            if asked.elapsed() >= timing::SLOW_HOST {
                self.progress.record_resumed();
            }
            self.progress.set_activity(Activity::Reading);
            // Only now: a chunk taken off earlier would be lost when this is dropped while it waits for a slot.
            let Some(chunk) = self.full_chunks.pop_front() else { break };
            let Some(slot) = slot else { continue };
            slot.deliver(chunk);
            self.progress.record_output();
            self.progress.record_new();
        }
    }

    async fn finish_partial(&mut self) {
        if let Some(line) = self.resume.finish_partial() {
            self.release_empty_line();
            self.told = None;
            self.add_line(&line, self.partial_left_out);
            self.flush().await;
        }
    }

    /// Delivers what was held back, once no more of the log is read.
    pub(crate) async fn finish(&mut self) {
        self.release_empty_line();
        self.release_splice();
        self.flush().await;
    }

    /// Whether the log is over, and not only a body of it.
    async fn is_over(&mut self, end: BodyEnd) -> bool {
        if matches!(end, BodyEnd::Told) {
            return true;
        }
        let mut changes = self.container.subscribe();
        // The container's status follows its last line after a moment.
        let patience = Instant::now() + timing::EXIT_STATUS_LAG;
        let mut pause = timing::LOG_END_FIRST;
        loop {
            let watched = self.observed.is_watched();
            match &end {
                // The watch shows when the container ends; for a moment it is trusted to be up to date.
                BodyEnd::Clean if watched && Instant::now() < patience => {}
                // Cut in mid-run: opening the log again shows whether the pod still exists.
                BodyEnd::Broken(_) | BodyEnd::Noise | BodyEnd::Idle | BodyEnd::Reread if watched => {}
                _ => self.read_container_state().await,
            }
            let container = changes.borrow_and_update().clone();
            match (container, &end) {
                (ContainerState::Ended(_), BodyEnd::Clean) => return true,
                (ContainerState::Gone, _) => {
                    self.finish_partial().await;
                    return true;
                }
                // The container has ended and its log is refused for good: collected, or never written.
                (ContainerState::Ended(_), BodyEnd::Refused(error)) => return !error.is_transient(),
                (ContainerState::Ended(_), _) => return false,
                (ContainerState::Running, BodyEnd::Clean) if Instant::now() < patience => {
                    if watched {
                        let _ = tokio::time::timeout_at(patience, changes.changed()).await;
                    } else {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(timing::LOG_END_LONGEST);
                    }
                }
                (ContainerState::Running, _) => return false,
            }
        }
    }

    /// Reads the pod and publishes the container's state if it is not running any more.
    async fn read_container_state(&mut self) {
        if self.container.borrow().is_over() {
            return;
        }
        let state = match self.observed.pod_named(&self.pod).await {
            Ok(None) => ContainerState::Gone,
            Ok(Some(pod)) => match container_phase(self.last_pod.insert(pod), CLAUDE_CONTAINER) {
                ContainerPhase::Terminated(state) => ContainerState::Ended(Some(state)),
                ContainerPhase::Waiting | ContainerPhase::Running => return,
            },
            Err(error) if error.kind == ApiErrorKind::NotFound => ContainerState::Gone,
            // A failed read does not show an end.
            Err(_) => return,
        };
        self.container.send_replace(state);
        if self.observed.is_watched() {
            // The watch should have shown that.
            self.observed.watched.request_resync();
        }
    }
}

/// Resolves once the log cannot be seen to have no line after the last one that was read. `silent` is for how long it was.
async fn until_not_silent<C: Cluster>(
    observed: Arc<Observed<C>>,
    pod: String,
    last: Option<Stamp>,
    mut silent: Duration,
) {
    loop {
        let Observed { cluster, namespace, .. } = &*observed;
        let answer = cluster.last_log_line(namespace, &pod, CLAUDE_CONTAINER);
        let is_known = match tokio::time::timeout(timing::LAST_LINE_LIMIT, answer).await {
            Ok(Ok(line)) if line.is_empty() => true,
            // The later of two stamps need not be the later line: the clock of a node can be set back.
            Ok(Ok(line)) => split_stamp(&line).is_some_and(|(stamp, _)| last == Some(stamp)),
            Ok(Err(_)) | Err(_) => false,
        };
        if !is_known {
            return;
        }
        silent = longer(silent);
        tokio::time::sleep(silent).await;
    }
}

/// The next limit of a log that was silent for this long.
fn longer(silent: Duration) -> Duration {
    (silent * 2).min(timing::LOG_IDLE_MOST)
}
