//! Every interval of a run in one place. Names and values are those of the contract (section 3.1) unless the
//! comment says otherwise.

use std::time::Duration;

/// Between two looks at a pod or a Job where the cluster cannot be watched.
pub(super) const POLL: Duration = Duration::from_secs(2);
/// Between two keep-alive lines.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(15);
/// How long a Job's final condition may stay away after its container ended.
pub(super) const COMPLETION_GRACE: Duration = Duration::from_secs(30);
/// How long a pod may take until its container runs.
pub(super) const SCHEDULE_LIMIT: Duration = Duration::from_secs(120);
/// How long the API may stay unreachable before a run's end is called unknown.
pub(super) const RECHECK_LIMIT: Duration = Duration::from_secs(60);
/// How long a run waits for the shared watches before it looks for itself.
pub(super) const WATCH_PATIENCE: Duration = Duration::from_secs(2);
/// How long a watch may fail to show what should be there before it is asked for.
pub(super) const UNSEEN: Duration = Duration::from_secs(5);

/// For how long a read before the Job exists is repeated (ours: the contract gave up at once).
pub(super) const SETUP_READ_BUDGET: Duration = Duration::from_secs(5);
/// For how long another host may hold an agent's claim, unchanged, before it is taken for dead. Only how long a run
/// waits depends on it, never what may start.
pub(super) const CLAIM_PATIENCE: Duration = Duration::from_secs(30);
/// A Job to attach to that is younger than this may have no pod yet; it is waited for as long.
pub(super) const POD_CREATION: Duration = Duration::from_secs(30);
/// First and longest pause between two looks at a claim that another host holds: it is mostly held for a few requests.
pub(super) const CLAIM_POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// First and longest pause before a log is opened again; progress starts over at the first.
pub(super) const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// A log body that is silent for so long while the container runs may be half-open: it is opened anew.
pub(super) const LOG_IDLE_LIMIT: Duration = Duration::from_secs(90);
/// After a clean end of the log, for how long the pod may still read as running before that counts as a cut.
pub(super) const EXIT_STATUS_LAG: Duration = Duration::from_secs(2);
/// How long a Job whose pod was deleted before it ran may take to say why.
pub(super) const ENDED_JOB_LAG: Duration = Duration::from_secs(5);
/// How long the rest of a log may stall once the Job has ended.
pub(super) const DRAIN_STALL: Duration = Duration::from_secs(5);
/// For how long a vanished Job's log is still read: its pod is being deleted meanwhile.
pub(super) const DRAIN_GONE: Duration = Duration::from_secs(10);
/// After a cancel, for how long the pod may take to go; the host waits 60 s for an acknowledgement.
pub(super) const CANCEL_CONFIRM: Duration = Duration::from_secs(50);
/// How long cleaning up may be retried before it is given up with a warning.
pub(super) const CLEANUP_BUDGET: Duration = Duration::from_secs(15);
/// The same for each deletion when the host shuts down: it has about 30 s, a pod's grace period, for everything.
pub(super) const SHUTDOWN_BUDGET: Duration = Duration::from_secs(10);
/// For how long after that no Job is created; a process that is still there then has not shut down.
pub(super) const SHUTDOWN_CLOSED: Duration = Duration::from_secs(60);
/// A log chunk for the host ends at this size, unless one line alone is longer (the host keeps the last 8 KiB
/// of a chunk live).
pub(super) const CHUNK_BYTES: usize = 8 * 1024;
/// A log that has brought something is looked at again after so long, if few are followed, and where many are after a
/// multiple of it, one for each so many logs, up to a limit: of 200 each is looked at 6 times a second.
pub(super) const READ_TICK: Duration = Duration::from_millis(20);
pub(super) const LOGS_PER_TICK: u32 = 25;
pub(super) const MOST_TICKS: u32 = 10;
/// A log that brings so many bytes in that time is not let rest, so that its socket does not fill.
pub(super) const READ_MUCH: usize = 64 * 1024;
/// For how long what is known of the host's own pod is used again.
pub(super) const SELF_POD_TTL: Duration = Duration::from_secs(600);
