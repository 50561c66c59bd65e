//! Every interval, limit and budget of a run.
//!
//! The values up to [`SCHEDULE_LIMIT`], and [`RECHECK_LIMIT`], are those of `docs/contract.md`, "Timing"; the others are this package's own, and
//! say what they trade. An interval is a pause between two actions, a limit ends a wait, a budget bounds how long a failing
//! request is repeated. Times of the cluster client and of the shared watches are constants of `cluster`.

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::retry::Backoff;

/// Between two reads of a pod or a Job where the cluster cannot be watched.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Between two keep-alive lines, and between two questions whether the control plane has cancelled the run.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Keep-alive lines of all runs are logged at multiples of this, so that JavaScript is woken once for many of them. So the
/// first one of a run comes up to this much late. [`KEEPALIVE_INTERVAL`] is a multiple of it.
pub(super) const KEEPALIVE_TICK: Duration = Duration::from_secs(1);
/// How long a Job's final condition may be missing after its container ended.
pub(super) const COMPLETION_GRACE: Duration = Duration::from_secs(30);
/// How long a Job may be without a pod where nothing says why.
pub(super) const SCHEDULE_LIMIT: Duration = Duration::from_secs(120);

// Before the Job exists.

/// How long a run waits in line while others start. Each gives its permit back within a second, so the line always moves.
pub(super) const START_LINE_LIMIT: Duration = Duration::from_secs(60);
/// A run that waits this long for its start names its CLI to the host before `onMeta`. Most runs have a Job by then.
pub(super) const ANNOUNCE_AFTER: Duration = Duration::from_secs(1);
/// How long a host that is asked to end may take for that, where the run has no Job yet.
pub(super) const ANNOUNCE_LIMIT: Duration = Duration::from_millis(500);

/// For how long a failing read before the Job exists is repeated. 0.1.49 gave up at once; the run has not waited long yet, so
/// a short outage should not fail a run.
pub(super) const SETUP_READ_BUDGET: Duration = Duration::from_secs(5);
/// How long a helper or callback of the host may take. A host that is busy with its database answers late; one that never
/// does would hold the agent's turn and claim.
pub(super) const HOST_ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// How long files on the shared volume may take to be read or written before the run continues without them: a network
/// file system can hang, and so can what an agent has put in a file's place.
pub(super) const FILES_LIMIT: Duration = Duration::from_secs(60);
/// How long the host's own pod is taken to be as it was read last.
pub(super) const SELF_POD_TTL: Duration = Duration::from_secs(600);
/// How long another host may hold an agent's claim, unchanged, before it counts as dead. Only how long a run waits
/// depends on it, never what may start.
pub(super) const CLAIM_HOLDER_LIMIT: Duration = Duration::from_secs(30);

/// Between two reads of a claim that another host holds: it is mostly held for a few requests only.
pub(super) fn claim_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(20), Duration::from_secs(1))
}

/// How long a quota may go on counting a claim that was deleted. The quota controller of Kubernetes 1.37 looks at
/// deleted objects a few seconds late.
pub(super) const QUOTA_LAG: Duration = Duration::from_secs(15);

/// How long a Job must be gone before another takes its name. The Job controller of Kubernetes 1.34 (not that of 1.37)
/// may count the pod of the first as one that the second waits for, for five minutes, where it never saw the name free.
pub(super) const NAME_FREE_PAUSE: Duration = Duration::from_secs(2);

/// For how long runs are not sealed in a namespace that refused a Secret: then its Role may have changed.
pub(super) const SECRETS_REFUSED: Duration = Duration::from_secs(600);

/// Between two attempts to create a Job or a Secret. There are few of them (`start::create`).
pub(super) fn create_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(250), Duration::from_secs(2))
}

// The Job of the environment test.

/// How long it may take, and the time limit of the Job itself: a person waits for it, and images take time.
pub(super) const HELLO_LIMIT: Duration = Duration::from_secs(120);
/// For how long something may keep its pod from starting: two attempts of a kubelet to pull an image.
pub(super) const HELLO_PATIENCE: Duration = Duration::from_secs(20);
/// Between two reads of its pod.
pub(super) const HELLO_POLL: Duration = Duration::from_millis(500);
/// How long Kubernetes keeps it where this process could not delete it.
pub(super) const HELLO_KEPT: Duration = Duration::from_secs(60);

// Observing the Job and its pod.

/// How long a run waits for the shared watches to open before it polls.
pub(super) const WATCH_START_LIMIT: Duration = Duration::from_secs(2);
/// How long a watch may fail to show an object that should exist before the run reads it itself.
pub(super) const UNSEEN_LIMIT: Duration = Duration::from_secs(5);
/// A Job to attach to that is younger than this may have no pod yet; its pod is waited for as long.
pub(super) const POD_CREATION_LIMIT: Duration = Duration::from_secs(30);
/// How long the creation of a Job's pod may be refused: the Job controller tries again with growing pauses, and a quota
/// may become free.
pub(super) const POD_CREATION_GRACE: Duration = Duration::from_secs(60);
/// How long a container's creation or start may fail: the kubelet tries again, and a missing Secret may be on its way.
pub(super) const CONTAINER_START_GRACE: Duration = Duration::from_secs(60);
/// After this time without a pod the Job's Events are read, and again when the run gives up.
pub(super) const JOB_EVENTS_AFTER: Duration = Duration::from_secs(5);
/// Between two reads of the Job's Events, as long as they say nothing of its pod.
pub(super) const JOB_EVENTS_INTERVAL: Duration = Duration::from_secs(20);
/// After this time without progress the Events of a pod that has a node are read, once, and again when the run gives up.
pub(super) const POD_EVENTS_AFTER: Duration = Duration::from_secs(30);
/// For how long a failing read of Events is repeated: they explain a failure, and no more.
pub(super) const EVENTS_BUDGET: Duration = Duration::from_secs(2);
/// How often the host's run card gets the same line again: the host forgets it after 90 s.
pub(super) const CARD_REPEAT: Duration = Duration::from_secs(60);
/// Between two lines of one stage on that card. What is left out in between is shown at the next poll.
pub(super) const CARD_PAUSE: Duration = Duration::from_secs(1);
/// Between two reads of a Job that waits in a queue, where it cannot be watched.
pub(super) const QUEUE_POLL_INTERVAL: Duration = Duration::from_secs(10);

/// How long a pod may take for one step of its start: `podStartTimeoutSec` and a tenth of it, so that an image pulled in
/// just that time still becomes a container.
pub(super) fn pod_start_limit(configured: Duration) -> Duration {
    configured + configured / 10
}

/// How long a deleted pod that never ran may take to go; its grace period is 30 s. What it ran is not known until then.
pub(super) const START_PROOF_LIMIT: Duration = Duration::from_secs(50);
/// For how long a failing read of that pod is repeated.
pub(super) const START_PROOF_BUDGET: Duration = Duration::from_secs(5);
/// How long a Job whose pod was deleted before it ran may take to say why.
pub(super) const ENDED_JOB_LAG: Duration = Duration::from_secs(5);
/// Between two reads of that Job.
pub(super) const ENDED_JOB_INTERVAL: Duration = Duration::from_millis(500);
/// How long a log that was cut off may stay so, and a single read may take, once the end of the run is known.
pub(super) const RECHECK_LIMIT: Duration = Duration::from_secs(60);

// Following the log.

/// First pause before a log is opened or read again.
pub(super) const RECONNECT_FIRST: Duration = Duration::from_millis(250);

/// Between two attempts to follow a log; progress starts over at the first pause.
pub(super) fn reconnect_backoff() -> Backoff {
    Backoff::new(RECONNECT_FIRST, Duration::from_secs(10))
}

/// A log body that is silent this long while the container runs may be half-open behind a proxy or in the API server, where
/// TCP keep-alive does not reach: its last line is requested.
pub(super) const LOG_IDLE_LIMIT: Duration = Duration::from_secs(90);
/// Each time that showed nothing new the limit doubles, up to this: most silent logs belong to a CLI that thinks. The end of
/// the container is seen by other means, so only the lines of a body that is half-open come this late. Load balancers drop
/// idle connections after some minutes.
pub(super) const LOG_IDLE_MOST: Duration = Duration::from_secs(360);
/// How long that answer may take, with its time in line; then the log is opened again.
pub(super) const LAST_LINE_LIMIT: Duration = Duration::from_secs(30);
/// A host that takes longer than this for a chunk holds the reading up: what the CLI printed meanwhile was not seen.
pub(super) const SLOW_HOST: Duration = Duration::from_secs(1);
/// A body that ends this soon after its last line broke off there, and was not closed because it was silent.
pub(super) const LOG_CUT_OFF_LAG: Duration = Duration::from_secs(1);
/// Once its container has ended, a log that brings nothing new for this long is over, whatever is received again.
pub(super) const LOG_NOTHING_NEW_LIMIT: Duration = Duration::from_secs(30);
/// Once its container has ended, how long an error text may come instead of the log. The containers of an evicted pod are
/// removed with their logs, so the text stays.
pub(super) const LOG_NOISE_LIMIT: Duration = Duration::from_secs(2);
/// Logs that have brought something are read again at common ticks of this length, so that many are read at one go.
pub(super) const READ_TICK: Duration = Duration::from_millis(20);
/// With every further 100 logs that are followed, each waits one tick more: the cost does not grow with their number.
pub(super) const LOGS_PER_TICK: u32 = 100;
/// The most ticks a log waits: each of 200 logs is read 25 times a second, and each of 1,000 and more 5 times.
pub(super) const MAX_TICKS: u32 = 10;
/// A log that brings this many bytes between two reads is not paused, so that its socket does not fill.
pub(super) const BUSY_LOG_BYTES: usize = 64 * 1024;

// The end of a run.

/// How long the pod's status may lag behind the end of the container. After a clean end of the log a pod that still
/// reads as running counts as a cut only after this; an exit code that is missing is read again for as long.
pub(super) const EXIT_STATUS_LAG: Duration = Duration::from_secs(2);
/// Between two reads of a pod whose exit code is missing.
pub(super) const EXIT_STATUS_INTERVAL: Duration = Duration::from_millis(200);
/// First pause between two reads of a pod whose log has ended and whose container should have; it doubles.
pub(super) const LOG_END_FIRST: Duration = Duration::from_millis(50);
/// The longest of these pauses.
pub(super) const LOG_END_LONGEST: Duration = Duration::from_millis(500);
/// How long the rest of a log may stall once the Job has ended.
pub(super) const DRAIN_STALL_LIMIT: Duration = Duration::from_secs(5);
/// Between two checks whether it stalls.
pub(super) const DRAIN_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// How long the namespace of a deleted Job may take to be read: only what the failure is called depends on it.
pub(super) const NAMESPACE_LIMIT: Duration = Duration::from_secs(2);
/// How long the log of a vanished Job is still read: its pod is being deleted meanwhile.
pub(super) const DRAIN_GONE_LIMIT: Duration = Duration::from_secs(10);
/// How long a cancel is tried: the deletion of the Job, and the end of its CLI. The host waits 60 s for an
/// acknowledgement.
pub(super) const CANCEL_LIMIT: Duration = Duration::from_secs(55);

/// Between two attempts to delete the Job of a cancelled run.
pub(super) fn cancel_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(5))
}

/// Between two reads of pods of an earlier run that are to end.
pub(super) fn pod_end_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(250), POLL_INTERVAL)
}

/// First pause between two reads of a pod that is to end; it doubles up to [`POLL_INTERVAL`].
pub(super) const POD_END_FIRST: Duration = Duration::from_millis(100);
/// The grace period of a pod that names none.
pub(super) const DEFAULT_POD_GRACE: Duration = Duration::from_secs(30);
/// The longest grace period that a run waits for.
pub(super) const MAX_POD_GRACE: Duration = Duration::from_secs(300);
/// What a pod may take beyond its grace period until its end is seen.
pub(super) const POD_END_MARGIN: Duration = Duration::from_secs(15);
/// A pod whose Job is gone, and that was not asked to end after this time, was left behind on purpose.
pub(super) const ORPHAN_LIMIT: Duration = Duration::from_secs(15);
/// How long a body is still read after the pod's own last line: what went to stderr comes on another way.
pub(super) const TOLD_SETTLE: Duration = Duration::from_millis(5);
/// After the pod's own last line its container must be seen to have ended within this time: the agent can print that line,
/// too.
pub(super) const TOLD_END_LIMIT: Duration = Duration::from_secs(5);
/// The status that shows a kill shows its reason as well, where there is one; a status that lags is waited for this long.
pub(super) const CAUSE_LAG: Duration = Duration::from_millis(500);
/// A deletion that is overdue by this much, of a pod that prints nothing, is one that its node will not carry out.
pub(super) const LOST_NODE_LIMIT: Duration = Duration::from_secs(120);
/// The API must be away this long before that is logged: shorter outages are common.
pub(super) const API_AWAY_NOTICE: Duration = Duration::from_secs(10);
/// For how long a failing deletion is repeated before the run gives up with a warning.
pub(super) const CLEANUP_BUDGET: Duration = Duration::from_secs(15);
/// For how long of that a 403 is not taken as final: an API server that has just started refuses what it does not know yet.
pub(super) const CLEANUP_REFUSED_LIMIT: Duration = Duration::from_secs(10);
/// The same for each deletion when the host shuts down, its last request included.
pub(super) const SHUTDOWN_BUDGET: Duration = Duration::from_secs(10);
/// How long a shutdown may take, whatever the API does: the host has about 30 s, a pod's grace period, for everything.
pub(super) const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);
/// How long a host may take nothing of the log of a run that was cancelled, has reached its time limit, or whose host shuts
/// down; then the rest is dropped. Of a run that ended by itself it is [`HOST_ANSWER_LIMIT`]: its log is worth more.
pub(super) const LOG_STALL_LIMIT: Duration = Duration::from_secs(10);
/// How long a run whose Job is left to the next host may still end by itself. Today's host waits 5 s for the results of its
/// runs.
pub(super) const LEAVE_AFTER: Duration = Duration::from_secs(1);
/// How long after that no Job is created; a process that is still alive then has not shut down.
pub(super) const SHUTDOWN_CLOSED: Duration = Duration::from_secs(60);

/// The least that must be left of a run's time limit for a second Job.
pub(super) const LEAST_SECOND_TRY: Duration = Duration::from_secs(1);

/// The common times of all runs of a process: what many of them do at the same moment costs one wake-up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    since: Instant,
}

impl Grid {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now() }
    }

    /// The first multiple of a tick that is not before this time.
    pub(super) fn next(self, at: Instant, tick: Duration) -> Instant {
        self.at(self.number(at, tick), tick)
    }

    /// The number of the first multiple of a tick that is not before this time.
    pub(super) fn number(self, at: Instant, tick: Duration) -> u32 {
        let due = at.saturating_duration_since(self.since).as_nanos();
        u32::try_from(due.div_ceil(tick.as_nanos())).unwrap_or(u32::MAX)
    }

    /// The time of the multiple of a tick with this number.
    pub(super) fn at(self, number: u32, tick: Duration) -> Instant {
        self.since + tick * number
    }
}

/// When this number of seconds is over, of which some were spent already.
pub(super) fn deadline(seconds: f64, spent: Duration) -> Instant {
    Instant::now() + Duration::from_secs_f64(seconds).saturating_sub(spent)
}

/// Sleeps until a time; forever without one.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
