//! Knobs that can be turned at run time.

use crate::logs::Rotation;
use crate::status::ApiError;
use serde_json::{Value, json};
use std::time::Duration;

/// The knobs. Times are milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// How far the Job's status lags behind its pods; the real controller batches for 1000.
    pub job_condition_lag_ms: u64,
    /// Back-off before a Job's second pod; doubles per failure.
    pub job_backoff_ms: u64,
    /// Time a pod stays unscheduled.
    pub scheduling_delay_ms: u64,
    /// Time before each container starts.
    pub pod_start_delay_ms: u64,
    /// Time an image takes to be pulled for the first time.
    pub image_pull_delay_ms: u64,
    /// Time between two tries to pull an image that cannot be pulled.
    pub image_pull_backoff_ms: u64,
    /// First back-off of a container restarted under `OnFailure`; doubles per restart.
    pub crash_loop_backoff_ms: u64,
    /// Time between bookmarks of a watch.
    pub bookmark_interval_ms: u64,
    /// A container's log file that exceeds this is rotated: only the newest file is served. A kubelet's default is 10 Mi;
    /// this one is more than any test prints.
    pub log_rotate_bytes: u64,
    /// Time between two looks at the size of a log file. A kubelet's default is 10 s.
    pub log_monitor_ms: u64,
    /// Time between two looks at what pods with limits of local storage use. A kubelet's are 10 s apart.
    pub storage_check_ms: u64,
    /// Image names or prefixes that cannot be pulled; a trailing `/` or `*` makes a prefix.
    pub unpullable: Vec<String>,
    /// No pod can be scheduled.
    pub unschedulable: bool,
    /// Most Jobs a namespace may hold.
    pub quota_jobs: Option<u64>,
    /// Most pods a namespace may hold.
    pub quota_pods: Option<u64>,
    /// How late a quota stops counting what was deleted or has ended; 0: it is counted anew for every creation. The quota
    /// controller of a real cluster takes some seconds.
    pub quota_lag_ms: u64,
    /// A watch from a compacted version is refused with HTTP 410 instead of an ERROR event.
    pub expired_as_status: bool,
    /// The Job controller does nothing.
    pub job_controller_paused: bool,
    /// How often the kubelet looks at what its containers do before it writes it; 0: at once. A real one does every 1000.
    pub kubelet_relist_ms: u64,
    /// How often a followed log that brings nothing is checked for its container's end; 0: it ends with the container. A
    /// real kubelet checks every 1000.
    pub log_check_ms: u64,
    /// How long the kubelet may be silent before its node counts as lost.
    pub node_monitor_grace_ms: u64,
    /// For how many seconds pods tolerate a lost node, where they do not say so themselves.
    pub toleration_seconds: u64,
    /// How long after its deletion a node's pods are removed; a real cluster takes 40 to 60 s.
    pub pod_gc_after_ms: u64,
    /// How many pods that have ended may be there before the oldest are removed. 12,500 is the default of a real cluster.
    pub terminated_pod_gc_threshold: u64,
    /// Signals go as in a PID namespace: only the container's first process gets them, and only those that it
    /// handles. A shell handles no SIGTERM, so pods then take their whole grace period to end. Off:
    /// the whole process group gets them.
    pub signals_as_first_process: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            job_condition_lag_ms: 50,
            job_backoff_ms: 10_000,
            scheduling_delay_ms: 0,
            pod_start_delay_ms: 0,
            image_pull_delay_ms: 0,
            image_pull_backoff_ms: 10_000,
            crash_loop_backoff_ms: 10_000,
            bookmark_interval_ms: 60_000,
            log_rotate_bytes: 1 << 30,
            log_monitor_ms: 0,
            storage_check_ms: 1_000,
            unpullable: vec!["missing/".to_string()],
            unschedulable: false,
            quota_jobs: None,
            quota_pods: None,
            quota_lag_ms: 0,
            expired_as_status: false,
            job_controller_paused: false,
            kubelet_relist_ms: 0,
            log_check_ms: 0,
            node_monitor_grace_ms: 50_000,
            toleration_seconds: 300,
            pod_gc_after_ms: 40_000,
            terminated_pod_gc_threshold: 12_500,
            signals_as_first_process: false,
        }
    }
}

impl Settings {
    /// When logs are rotated.
    pub(crate) fn rotation(&self) -> Rotation {
        Rotation::new(self.log_rotate_bytes, self.log_monitor_ms)
    }

    /// Whether an image cannot be pulled.
    pub(crate) fn cannot_pull(&self, image: &str) -> bool {
        self.unpullable.iter().any(|p| {
            let prefix = p.strip_suffix('*').unwrap_or(p);
            image == p || (prefix.len() < p.len() || p.ends_with('/')) && image.starts_with(prefix)
        })
    }

    /// How often followed logs are checked for the end of their container, where they are.
    pub(crate) fn log_check(&self) -> Option<Duration> {
        (self.log_check_ms > 0).then(|| Duration::from_millis(self.log_check_ms))
    }

    /// As the control API shows them.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "jobConditionLagMs": self.job_condition_lag_ms,
            "jobBackoffMs": self.job_backoff_ms,
            "schedulingDelayMs": self.scheduling_delay_ms,
            "podStartDelayMs": self.pod_start_delay_ms,
            "imagePullDelayMs": self.image_pull_delay_ms,
            "imagePullBackoffMs": self.image_pull_backoff_ms,
            "crashLoopBackoffMs": self.crash_loop_backoff_ms,
            "bookmarkIntervalMs": self.bookmark_interval_ms,
            "logRotateBytes": self.log_rotate_bytes,
            "logMonitorMs": self.log_monitor_ms,
            "storageCheckMs": self.storage_check_ms,
            "unpullable": self.unpullable,
            "unschedulable": self.unschedulable,
            "quota": {"jobs": self.quota_jobs, "pods": self.quota_pods},
            "quotaLagMs": self.quota_lag_ms,
            "expiredAsStatus": self.expired_as_status,
            "jobControllerPaused": self.job_controller_paused,
            "kubeletRelistMs": self.kubelet_relist_ms,
            "logCheckMs": self.log_check_ms,
            "nodeMonitorGraceMs": self.node_monitor_grace_ms,
            "tolerationSeconds": self.toleration_seconds,
            "podGcAfterMs": self.pod_gc_after_ms,
            "terminatedPodGcThreshold": self.terminated_pod_gc_threshold,
            "signalsAsFirstProcess": self.signals_as_first_process,
        })
    }

    /// Changes the settings named in `body`; nothing changes when one is unknown or of a wrong type.
    pub(crate) fn apply(&mut self, body: &Value) -> Result<(), ApiError> {
        let map = body.as_object().ok_or_else(|| ApiError::bad_request("settings must be an object"))?;
        let mut next = self.clone();
        for (name, v) in map {
            let bad = || ApiError::bad_request(format!("bad value for setting {name}"));
            let number = || v.as_u64().ok_or_else(bad);
            let flag = || v.as_bool().ok_or_else(bad);
            match name.as_str() {
                "jobConditionLagMs" => next.job_condition_lag_ms = number()?,
                "jobBackoffMs" => next.job_backoff_ms = number()?,
                "schedulingDelayMs" => next.scheduling_delay_ms = number()?,
                "podStartDelayMs" => next.pod_start_delay_ms = number()?,
                "imagePullDelayMs" => next.image_pull_delay_ms = number()?,
                "imagePullBackoffMs" => next.image_pull_backoff_ms = number()?,
                "crashLoopBackoffMs" => next.crash_loop_backoff_ms = number()?,
                "bookmarkIntervalMs" => next.bookmark_interval_ms = number()?.max(10),
                "logRotateBytes" => next.log_rotate_bytes = number()?,
                "logMonitorMs" => next.log_monitor_ms = number()?,
                "storageCheckMs" => next.storage_check_ms = number()?.max(10),
                "quotaLagMs" => next.quota_lag_ms = number()?,
                "unschedulable" => next.unschedulable = flag()?,
                "expiredAsStatus" => next.expired_as_status = flag()?,
                "jobControllerPaused" => next.job_controller_paused = flag()?,
                "kubeletRelistMs" => next.kubelet_relist_ms = number()?,
                "logCheckMs" => next.log_check_ms = number()?,
                "nodeMonitorGraceMs" => next.node_monitor_grace_ms = number()?,
                "tolerationSeconds" => next.toleration_seconds = number()?,
                "podGcAfterMs" => next.pod_gc_after_ms = number()?,
                "terminatedPodGcThreshold" => next.terminated_pod_gc_threshold = number()?,
                "signalsAsFirstProcess" => next.signals_as_first_process = flag()?,
                "unpullable" => {
                    next.unpullable = v
                        .as_array()
                        .ok_or_else(bad)?
                        .iter()
                        .map(|s| s.as_str().map(str::to_string).ok_or_else(bad))
                        .collect::<Result<_, _>>()?;
                }
                "quota" => {
                    next.quota_jobs = v.get("jobs").and_then(Value::as_u64);
                    next.quota_pods = v.get("pods").and_then(Value::as_u64);
                }
                _ => return Err(ApiError::bad_request(format!("unknown setting {name}"))),
            }
        }
        *self = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpullable_images_match_by_glob() {
        let mut s = Settings::default();
        assert!(s.cannot_pull("missing/x:1") && !s.cannot_pull("missing"));
        s.apply(&json!({"unpullable": ["a:1", "b*"]})).expect("known");
        assert!(s.cannot_pull("a:1") && !s.cannot_pull("a:12") && s.cannot_pull("bus"));
    }

    #[test]
    fn unknown_settings_change_nothing() {
        let mut s = Settings::default();
        assert!(s.apply(&json!({"bookmarkIntervalMs": 20, "nope": 1})).is_err());
        assert_eq!(s.bookmark_interval_ms, 60_000);
    }
}
