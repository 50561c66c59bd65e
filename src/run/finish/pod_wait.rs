//! Waits until the pod's container runs (`docs/contract.md`, "Waiting for the pod").

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use tokio::time::Instant;

use crate::cluster::watch::Seen;
use crate::cluster::{ApiError, Cluster};
use crate::forensics::{
    Disruption, Grace, Hold, JobState, PodProgress, PodVerdict, StartFailure, StartRecord, Step, disruption,
    failure_words, hold_of_job_events, hold_of_pod_events, is_pulling, queue_hold,
};
use crate::request::Config;
use crate::run::card::{RunCard, Waits};
use crate::run::context::RunContext;
use crate::run::job_view::{JobSeen, Observed, PodPoller};
use crate::run::{LogSink, timing};

/// How the start of a pod ended.
pub(super) enum PodStart {
    /// `claude` runs, or has run and its pod has not failed.
    Running(Arc<Pod>),
    /// `claude` ran and the pod failed before the run saw it running, for this reason in the contract's words. What the
    /// container printed says more.
    Ended(Arc<Pod>, String),
    /// `claude` did not run, for this reason.
    NotRunning(Box<StartFailure>),
    /// Pods could not be read.
    Unreadable(ApiError),
    /// The Job ended or was deleted before the run saw its pod running.
    JobIsOver,
}

/// How many polls may find no pod before the Job itself is checked.
const POLLS_WITHOUT_POD: u32 = 3;

/// What a run knows of its start. It outlives the wait, which a cancel may end at any moment.
pub(super) struct StartState {
    /// What the pods showed.
    pub(super) record: StartRecord,
    began: Instant,
    held: Option<Held>,
}

/// What holds the start up, and since when something of this kind does.
struct Held {
    hold: Hold,
    since: Instant,
}

impl StartState {
    pub(super) fn new() -> Self {
        Self { record: StartRecord::default(), began: Instant::now(), held: None }
    }

    /// What the run waits for, as a sentence.
    pub(super) fn waiting_for(&self) -> String {
        let Some(Held { hold, since }) = &self.held else {
            return "the pod had not started".to_owned();
        };
        self.failure(hold.clone(), *since, || "The pod had not started".to_owned()).message()
    }

    fn failure(&self, hold: Hold, since: Instant, text: impl FnOnce() -> String) -> StartFailure {
        StartFailure::new(hold, self.began.elapsed(), since.elapsed(), text)
    }
}

/// Waits until `claude` runs or has run, and logs every change of the pod.
pub(super) async fn wait_until_running<C: Cluster, H>(
    run: &RunContext<C, H>,
    observed: &Observed<C>,
    state: &mut StartState,
) -> PodStart {
    let mut wait = PodWait::new(observed, run, state);
    let mut poller = observed.pod_poller();
    loop {
        let start = match poller.poll_once(timing::RECHECK_LIMIT).await {
            Ok(Some(pod)) => wait.on_pod(pod).await,
            Ok(None) => wait.on_no_pod().await,
            Err(error) => Some(PodStart::Unreadable(error)),
        };
        if let Some(start) = start {
            if let PodStart::Running(pod) = &start {
                run.card.show(Waits::Running, &format!("Claude runs in pod {}", name_of(pod)));
            }
            return start;
        }
        // What is newer than the poll counts before the next one.
        while let Some(pod) = wait.newer_pod.take() {
            if let Some(start) = wait.on_pod(pod).await {
                return start;
            }
        }
        wait.pause(&mut poller).await;
    }
}

/// The state of a wait for the pod.
struct PodWait<'a, C> {
    observed: &'a Observed<C>,
    log: &'a LogSink,
    config: &'a Config,
    card: &'a RunCard,
    state: &'a mut StartState,
    /// The progress that was logged last; empty before there was a pod.
    logged_key: String,
    /// How many polls in a row found no pod.
    polls_without_pod: u32,
    /// Since when there is no pod.
    no_pod_since: Option<Instant>,
    /// The last object of the pod.
    last_pod: Option<Arc<Pod>>,
    /// A pod that was read before the run was given up, and that has moved on.
    newer_pod: Option<Arc<Pod>>,
    /// How far the pod has come.
    steps: usize,
    /// When it came there.
    progressed_at: Instant,
    queue_logged: bool,
    events: Events,
}

/// What was read of the Events of Job and pod.
#[derive(Default)]
struct Events {
    /// When those of the Job were read last.
    job_read: Option<Instant>,
    pod_read: bool,
    /// The last word of the pod's Events is that an image is being pulled.
    is_pulling: bool,
    /// What the Job's Events say.
    refusal: Option<Hold>,
    /// Why they cannot be read.
    error: Option<ApiError>,
    /// A pull that was under way at the limit has had its second period.
    pull_renewed: bool,
}

impl<'a, C: Cluster> PodWait<'a, C> {
    fn new<H>(observed: &'a Observed<C>, run: &'a RunContext<C, H>, state: &'a mut StartState) -> Self {
        Self {
            observed,
            log: &run.log,
            config: &run.request.config,
            card: &run.card,
            state,
            logged_key: String::new(),
            polls_without_pod: 0,
            no_pod_since: None,
            last_pod: None,
            newer_pod: None,
            steps: 0,
            progressed_at: Instant::now(),
            queue_logged: false,
            events: Events::default(),
        }
    }

    async fn pause(&self, poller: &mut PodPoller<'_, C>) {
        let queued = self.state.held.as_ref().is_some_and(|held| held.hold.step == Step::Queue);
        if queued && !self.observed.is_watched() {
            tokio::time::sleep(timing::QUEUE_POLL_INTERVAL).await;
        } else {
            poller.pause().await;
        }
    }

    async fn on_pod(&mut self, pod: Arc<Pod>) -> Option<PodStart> {
        self.polls_without_pod = 0;
        self.no_pod_since = None;
        self.state.record.on_pod(&pod);
        self.last_pod = Some(pod.clone());
        let progress = PodProgress::read(&pod);
        if progress.key != self.logged_key {
            self.log.out(format!("[paperclip] Pod {}: {}", name_of(&pod), progress.line)).await;
            self.logged_key = progress.key;
        }
        if progress.steps > self.steps {
            self.steps = progress.steps;
            self.progressed_at = Instant::now();
            (self.events.pod_read, self.events.is_pulling) = (false, false);
        }
        match progress.verdict {
            PodVerdict::Ready => Some(PodStart::Running(pod)),
            PodVerdict::Ended(text) => Some(PodStart::Ended(pod, text)),
            PodVerdict::Held(hold) => self.on_held_pod(&pod, *hold, &progress.line).await,
        }
    }

    async fn on_held_pod(&mut self, pod: &Arc<Pod>, hold: Hold, line: &str) -> Option<PodStart> {
        if hold.grace == Grace::Final {
            if job_was_ended(self.observed, pod).await {
                return Some(PodStart::JobIsOver);
            }
            return Some(self.give_up(hold, Instant::now(), String::new));
        }
        let since = self.hold_up(hold.clone()).await;
        if !self.is_over(hold.grace, since) {
            let waits = if self.events.is_pulling { Waits::Pulling } else { hold.step.into() };
            self.card.show(waits, hold.text.as_deref().unwrap_or(&format!("Pod {}: {line}", name_of(pod))));
            if hold.grace == Grace::PodStart && self.progressed_at.elapsed() >= timing::POD_EVENTS_AFTER {
                self.log_pod_events(pod, &hold).await;
            }
            return None;
        }
        if self.has_moved_on(&hold).await {
            return None;
        }
        let (mut hold, name) = (hold, name_of(pod).to_owned());
        let waited = self.progressed_at.elapsed().as_secs();
        let words = hold.words.as_ref().filter(|_| hold.text.is_none());
        let mut detail = words.map_or_else(|| line.to_owned(), |words| format!("{line}: {words}"));
        if hold.grace == Grace::PodStart {
            let events = self.pod_events(pod).await;
            if is_pulling(&events) && !self.events.pull_renewed {
                self.events.pull_renewed = true;
                self.progressed_at = Instant::now();
                self.log
                    .out(format!("[paperclip] Pod {name}: the node still pulls an image — waiting on"))
                    .await;
                return None;
            }
            if is_pulling(&events) {
                hold = Hold { step: Step::Image, ..hold };
                detail = String::from("its node still pulls an image");
            } else if let Some(said) = hold_of_pod_events(&events) {
                hold = said;
            }
        }
        Some(self.give_up(hold, since, move || match name.as_str() {
            _ if detail == "phase=Pending" => {
                format!("Timed out waiting for pod to be scheduled ({waited}s)")
            }
            name => format!("Pod {name} made no progress for {waited}s: {detail}"),
        }))
    }

    /// Whether the pod has moved on from what held it up. A watch may lag, or may have missed an event that it could not
    /// read: a run is not given up for that.
    async fn has_moved_on(&mut self, hold: &Hold) -> bool {
        if !self.observed.is_watched() {
            return false;
        }
        let Some(pod) = self.observed.pod().await.ok().flatten() else { return false };
        self.state.record.on_pod(&pod);
        if matches!(PodProgress::read(&pod).verdict, PodVerdict::Held(now) if now.grace == hold.grace) {
            return false;
        }
        self.observed.watched.request_resync();
        self.newer_pod = Some(Arc::new(pod));
        true
    }

    /// Notes what holds the start up, and logs a queue once. Returns since when something of this kind does.
    async fn hold_up(&mut self, hold: Hold) -> Instant {
        let now = Instant::now();
        let before = self.state.held.as_ref().map(|held| (held.hold.grace, held.since));
        let since = match before {
            Some((grace, since)) if grace == hold.grace => since,
            _ => now,
        };
        self.leave_queue(hold.grace);
        if hold.grace == Grace::Queue && !self.queue_logged {
            self.queue_logged = true;
            let text = hold.text.as_deref().unwrap_or("held back");
            let limit = self.config.queue_timeout.map_or("as long as it takes".to_owned(), |limit| {
                format!("for at most {}s", limit.as_secs_f64())
            });
            self.log.out(format!("[paperclip] {text} — waiting {limit}")).await;
        }
        self.state.held = Some(Held { hold, since });
        since
    }

    /// The time in the queue does not count as part of the start.
    fn leave_queue(&mut self, now_held: Grace) {
        let was_queued = self.state.held.as_ref().is_some_and(|held| held.hold.grace == Grace::Queue);
        if was_queued && now_held != Grace::Queue {
            self.progressed_at = Instant::now();
            self.no_pod_since = self.no_pod_since.map(|_| self.progressed_at);
        }
    }

    /// Whether a hold since this moment has lasted for too long.
    fn is_over(&self, grace: Grace, since: Instant) -> bool {
        let held = since.elapsed();
        let start_limit = timing::pod_start_limit(self.config.pod_start_timeout);
        // Holds that take turns must not wait forever.
        let bounded =
            |limit: Duration| held >= limit || self.progressed_at.elapsed() >= start_limit.max(limit);
        match grace {
            Grace::Final => true,
            Grace::Queue => self.config.queue_timeout.is_some_and(|limit| held >= limit),
            Grace::Unschedulable => held >= self.config.unschedulable_grace,
            Grace::ImagePull => bounded(self.config.image_pull_grace),
            Grace::Container => bounded(timing::CONTAINER_START_GRACE.min(start_limit)),
            Grace::PodCreation => held >= timing::POD_CREATION_GRACE || self.without_pod() >= start_limit,
            Grace::NoPod => self.without_pod() >= timing::SCHEDULE_LIMIT.min(start_limit),
            Grace::PodStart => self.progressed_at.elapsed() >= start_limit,
        }
    }

    fn give_up(&self, hold: Hold, since: Instant, text: impl FnOnce() -> String) -> PodStart {
        PodStart::NotRunning(Box::new(self.state.failure(hold, since, text)))
    }

    async fn pod_events(&mut self, pod: &Pod) -> Vec<Event> {
        let Some(uid) = pod.metadata.uid.as_deref().filter(|_| !self.is_forbidden()) else {
            return Vec::new();
        };
        match self.observed.events(uid).await {
            Ok(events) => events,
            Err(error) => {
                self.events.error = Some(error);
                Vec::new()
            }
        }
    }

    /// Logs what the Events of a pod say that has a node and does not get on.
    async fn log_pod_events(&mut self, pod: &Pod, hold: &Hold) {
        if self.events.pod_read || hold.step == Step::Scheduling {
            return;
        }
        self.events.pod_read = true;
        let events = self.pod_events(pod).await;
        self.events.is_pulling = is_pulling(&events);
        if let Some(text) = hold_of_pod_events(&events).and_then(|said| said.text) {
            self.log.out(format!("[paperclip] Pod {}: {text}", name_of(pod))).await;
        }
    }

    /// Whether it is known that Events may not be read.
    fn is_forbidden(&self) -> bool {
        self.events.error.as_ref().is_some_and(|error| !error.is_transient())
    }
}

/// Without a pod.
impl<C: Cluster> PodWait<'_, C> {
    async fn on_no_pod(&mut self) -> Option<PodStart> {
        if self.polls_without_pod == 0 {
            self.log.out("[paperclip] Waiting for Job controller to create pod...").await;
        }
        self.polls_without_pod += 1;
        self.no_pod_since.get_or_insert_with(Instant::now);
        match self.check_job().await {
            JobCheck::Alive(job) => self.on_job_without_pod(job.as_deref()).await,
            JobCheck::Over(seen) => Some(self.on_job_over(&seen)),
            JobCheck::OverWithPod(pod) => self.on_pod(pod).await,
        }
    }

    async fn on_job_without_pod(&mut self, job: Option<&Job>) -> Option<PodStart> {
        if let Some(queued) = job.and_then(queue_hold) {
            let since = self.hold_up(queued.clone()).await;
            self.card.show(Waits::Queued, queued.text.as_deref().unwrap_or("the Job is held back"));
            return self.is_over(Grace::Queue, since).then(|| self.give_up(queued, since, String::new));
        }
        self.leave_queue(Grace::NoPod);
        let without = self.without_pod();
        if without >= timing::JOB_EVENTS_AFTER && self.may_be_refused() {
            self.events.job_read = Some(Instant::now());
            self.read_job_events().await;
            self.log_refusal().await;
        }
        let hold = self.events.refusal.clone().unwrap_or_else(Hold::no_pod);
        let since = self.hold_up(hold.clone()).await;
        if !self.is_over(hold.grace, since) {
            let text = hold.text.as_deref().unwrap_or("waiting for the Job's pod");
            self.card.show(hold.step.into(), text);
            return None;
        }
        if self.has_moved_on(&hold).await {
            return None;
        }
        // The last words count.
        self.read_job_events().await;
        let hold = self.events.refusal.clone().unwrap_or(hold);
        let text = self.no_pod_text(without.as_secs());
        Some(self.give_up(hold, since, || text))
    }

    /// Whether the Job's Events may say by now that its pod is refused. The Job controller is refused late where a webhook
    /// takes its time, or where a queue has just let the Job go.
    fn may_be_refused(&self) -> bool {
        let is_due = |read: Instant| read.elapsed() >= timing::JOB_EVENTS_INTERVAL;
        self.events.refusal.is_none() && !self.is_forbidden() && self.events.job_read.is_none_or(is_due)
    }

    /// For how long there has been no pod.
    fn without_pod(&self) -> Duration {
        self.no_pod_since.map(|since| since.elapsed()).unwrap_or_default()
    }

    async fn read_job_events(&mut self) {
        let Some(uid) = self.observed.job_uid.as_deref().filter(|_| !self.is_forbidden()) else { return };
        match self.observed.events(uid).await {
            Ok(events) => self.events.refusal = hold_of_job_events(&events).or(self.events.refusal.take()),
            Err(error) => self.events.error = Some(error),
        }
    }

    async fn log_refusal(&self) {
        let job = &self.observed.job_name;
        if let Some(text) = self.events.refusal.as_ref().and_then(|hold| hold.text.as_deref()) {
            self.log.err(format!("[paperclip] Job {job}: {text}")).await;
        } else if let Some(error) = self.events.error.as_ref().filter(|_| self.is_forbidden()) {
            self.log
                .err(format!(
                    "[paperclip] Job {job} has no pod yet, and the reason cannot be read: {error} (grant the verb list \
                     on events to see it)"
                ))
                .await;
        }
    }

    fn no_pod_text(&self, waited: u64) -> String {
        let job = &self.observed.job_name;
        let mut text = match &self.last_pod {
            Some(pod) => format!(
                "Pod {} of Job {job} is gone, and no other was created within {waited}s",
                name_of(pod)
            ),
            None => format!("No pod was created for Job {job} within {waited}s"),
        };
        for warning in &self.observed.warnings {
            text.push_str(&format!("; the API server warned: {warning}"));
        }
        if let Some(error) = &self.events.error {
            text.push_str(&format!(
                "; the reason cannot be read: {error} (grant the verb list on events to see it)"
            ));
        }
        text
    }

    /// The Job is over, and it has no pod.
    fn on_job_over(&mut self, seen: &JobSeen) -> PodStart {
        let JobSeen::Present(job) = seen else { return PodStart::JobIsOver };
        let state = JobState::read(job);
        if matches!(&state, JobState::Failed { reason, .. } if reason.as_deref() == Some("DeadlineExceeded"))
        {
            return PodStart::JobIsOver;
        }
        let last = self.watched_last_pod().or_else(|| self.last_pod.clone());
        if let Some(pod) = &last {
            self.state.record.on_pod(pod);
        }
        let (Some(pod), JobState::Failed { .. }) = (last, state) else {
            // A pod that was never seen may have run.
            self.state.record.may_have_run();
            return PodStart::JobIsOver;
        };
        if PodProgress::read(&pod).verdict == PodVerdict::Ready {
            return PodStart::JobIsOver;
        }
        let ended_by = disruption(&pod);
        let by = ended_by.as_ref().map_or_else(|| "nothing says by whom".to_owned(), Disruption::text);
        let words = failure_words(job);
        let said = words.as_ref().map(|words| format!("; its Job failed: {words}")).unwrap_or_default();
        let text = format!("Pod {} was gone before its container ran: {by}{said}", name_of(&pod));
        let reason = ended_by.map(|cause| cause.reason);
        let hold = Hold::lost(reason, words, text);
        self.give_up(hold, Instant::now(), String::new)
    }

    /// The last object of a pod that a watch showed.
    fn watched_last_pod(&self) -> Option<Arc<Pod>> {
        let snapshot = self.observed.watched.snapshot();
        snapshot.pods.values().rev().find_map(Seen::last).cloned()
    }

    /// Checks a Job without a pod.
    async fn check_job(&self) -> JobCheck {
        if !self.observed.is_watched() {
            // The pod existed before and is gone, or has been missing for a while: the Job shows why.
            let due = !self.logged_key.is_empty() || self.polls_without_pod > POLLS_WITHOUT_POD;
            return if due { JobCheck::of(self.observed.job().await.ok()) } else { JobCheck::Alive(None) };
        }
        let seen = match self.observed.watched_job() {
            Some(seen) => Some(seen),
            // A watch that has not shown even the Job may be half-open.
            None if self.polls_without_pod > 1 => self.observed.job().await.ok(),
            None => None,
        };
        let JobCheck::Over(seen) = JobCheck::of(seen.clone()) else { return JobCheck::of(seen) };
        // Different watches report Jobs and pods, in no order: the event of the pod may be on its way.
        match self.observed.pod().await {
            Ok(Some(pod)) => JobCheck::OverWithPod(Arc::new(pod)),
            Ok(None) => JobCheck::Over(seen),
            Err(_) => JobCheck::Alive(None),
        }
    }
}

/// How a Job without a pod stands.
enum JobCheck {
    /// It may get one; the Job where it was seen.
    Alive(Option<Arc<Job>>),
    Over(JobSeen),
    /// It is over, and a read found the pod that was missing.
    OverWithPod(Arc<Pod>),
}

impl JobCheck {
    fn of(seen: Option<JobSeen>) -> Self {
        match seen {
            Some(seen) if seen.is_over() => JobCheck::Over(seen),
            Some(JobSeen::Present(job)) => JobCheck::Alive(Some(job)),
            _ => JobCheck::Alive(None),
        }
    }
}

/// Waits for the pod of a Job that another run created, whatever its phase. A Job that may be too young to have a pod
/// is given `patience`.
pub(super) async fn wait_for_any_pod<C: Cluster>(
    observed: &Observed<C>,
    patience: Duration,
) -> Result<Option<Arc<Pod>>, ApiError> {
    let mut pod = observed.pod_within(timing::SETUP_READ_BUDGET).await?.map(Arc::new);
    let deadline = Instant::now() + patience;
    let mut poller = observed.pod_poller();
    while pod.is_none() && Instant::now() < deadline {
        if observed.watched_job().is_some_and(|seen| seen.is_over()) {
            return observed.pod_within(timing::SETUP_READ_BUDGET).await.map(|pod| pod.map(Arc::new));
        }
        poller.pause().await;
        pod = poller.poll_once(timing::SETUP_READ_BUDGET).await?;
    }
    Ok(pod)
}

/// Whether a pod is on its way to running, so that it must be waited for.
pub(super) fn is_pending(pod: &Pod) -> bool {
    matches!(PodProgress::read(pod).verdict, PodVerdict::Held(hold) if hold.grace != Grace::Final)
}

/// Whether a Job without a pod waits in a queue.
pub(super) async fn is_queued<C: Cluster>(observed: &Observed<C>) -> bool {
    let seen = match observed.watched_job() {
        Some(seen) => Some(seen),
        None => observed.job().await.ok(),
    };
    matches!(seen, Some(JobSeen::Present(job)) if queue_hold(&job).is_some())
}

/// Whether the pod failed because its Job was deleted or reached its deadline. The Job shows that a moment later.
pub(super) async fn job_was_ended<C: Cluster>(observed: &Observed<C>, pod: &Pod) -> bool {
    if pod.metadata.deletion_timestamp.is_none() {
        return false;
    }
    let patience = Instant::now() + timing::ENDED_JOB_LAG;
    loop {
        let seen = match observed.watched_job().filter(|_| observed.is_watched()) {
            Some(seen) => Some(seen),
            None => observed.job().await.ok(),
        };
        match seen {
            Some(JobSeen::Present(job)) => match JobState::read(&job) {
                JobState::Running => {}
                JobState::Failed { reason, .. } => return reason.as_deref() == Some("DeadlineExceeded"),
                JobState::Complete => return false,
            },
            Some(JobSeen::Deleted(_) | JobSeen::Gone) => return true,
            None => {}
        }
        if Instant::now() >= patience {
            return false;
        }
        tokio::time::sleep(timing::ENDED_JOB_INTERVAL).await;
    }
}

/// The pod's name, `unknown` for a pod without one.
pub(super) fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("unknown")
}
