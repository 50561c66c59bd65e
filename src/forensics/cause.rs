//! Why a run failed, as one table: a further cause is a further row.
//!
//! A cause is what operators match on: `resultJson.k8s.cause`. It is finer than the host's error codes
//! (`src/outcome/code.rs`), and chosen from what was seen. `docs/troubleshooting.md` is written from this table.

/// How far a run had come when it failed: the sections of `docs/troubleshooting.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The request, before anything is created.
    Configuration,
    /// The check that nothing else of the agent is alive.
    Guard,
    /// The creation of the Job and of what it needs.
    Create,
    /// The Job exists, and its pod does not.
    Pod,
    /// The pod exists, and has no node.
    Schedule,
    /// The pod has a node, and its container has not started.
    Start,
    /// The container ran, and was ended from outside.
    Ended,
    /// The container ended by itself.
    Exit,
    /// The log and the result event in it.
    Output,
    /// The API of the cluster while the run was under way.
    Api,
    /// This package itself.
    Internal,
}

impl Stage {
    /// Every stage, in the order of a run.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 11] = [
        Self::Configuration,
        Self::Guard,
        Self::Create,
        Self::Pod,
        Self::Schedule,
        Self::Start,
        Self::Ended,
        Self::Exit,
        Self::Output,
        Self::Api,
        Self::Internal,
    ];

    /// The stage in `resultJson.k8s.stage`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Guard => "guard",
            Self::Create => "create",
            Self::Pod => "pod",
            Self::Schedule => "schedule",
            Self::Start => "start",
            Self::Ended => "ended",
            Self::Exit => "exit",
            Self::Output => "output",
            Self::Api => "api",
            Self::Internal => "internal",
        }
    }

    /// Its section of the docs: a heading and an introduction.
    #[cfg(test)]
    const fn section(self) -> (&'static str, &'static str) {
        match self {
            Self::Configuration => ("Configuration", "The request cannot work. Nothing was created."),
            Self::Guard => (
                "Another run of the agent",
                "At most one run of an agent is alive at a time. Nothing was created.",
            ),
            Self::Create => ("Creating the Job", "The API did not accept the Job."),
            Self::Pod => (
                "No pod",
                "The Job exists, and its pod was not created. The Job controller says why in Events of the Job, which a run \
                 reads where its Role grants `events: list`.",
            ),
            Self::Schedule => ("No node", "The pod exists, and the scheduler has no node for it."),
            Self::Start => {
                ("The container does not start", "The pod has a node, and its container has not run.")
            }
            Self::Ended => (
                "Ended from outside",
                "The container ran, and something other than the CLI ended it. Work may have been done.",
            ),
            Self::Exit => ("The container ended by itself", "The container's exit code and reason say how."),
            Self::Output => {
                ("Log and result", "The container's end is known, and its output does not say enough.")
            }
            Self::Api => ("The cluster's API", "The API failed while the run was under way."),
            Self::Internal => ("This package", "A bug of this package. A Job that is alive is kept."),
        }
    }
}

/// Which object a cause is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// None: the request itself.
    Request,
    /// A Job.
    Job,
    /// The Job's pod; the Job where no pod was seen.
    Pod,
}

macro_rules! causes {
    ($($name:ident $code:literal $stage:ident $about:ident $says:literal $hint:literal)*) => {
        /// Why a run failed.
        #[expect(clippy::doc_markdown, reason = "the words are those of messages")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum Cause {
            $(#[doc = $says] $name,)*
        }

        impl Cause {
            /// Every cause, in the order of the table.
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code in `resultJson.k8s.cause`; it never changes.
            pub(crate) const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// How far the run had come.
            pub(crate) const fn stage(self) -> Stage {
                match self { $(Self::$name => Stage::$stage,)* }
            }

            /// Which object it is about.
            pub(crate) const fn about(self) -> About {
                match self { $(Self::$name => About::$about,)* }
            }

            /// What happened, as a clause about the object.
            pub(crate) const fn says(self) -> &'static str {
                match self { $(Self::$name => $says,)* }
            }

            /// What to do next, as one sentence.
            pub(crate) const fn hint(self) -> &'static str {
                match self { $(Self::$name => $hint,)* }
            }
        }
    };
}

// Name, code, stage, object, what happened, what to do. `__test__/unit/causes.test.js` reads this table: a row begins with
// name and code on one line.
causes! {
    ConfigInvalid "config_invalid" Configuration Request
        "a value of the adapter's configuration cannot be used"
        "Correct the value that the message names in the agent's configuration."
    AgentIdInvalid "agent_id_invalid" Configuration Request
        "no label value can be made of the agent's id"
        "Give the agent an id with at least one letter or digit."

    OwnPodUnreadable "own_pod_unreadable" Configuration Request
        "Paperclip's own pod, the model of every Job, could not be read"
        "Check that the API server can be reached from Paperclip's pod and knows its token, and that the Role has pods: get."
    HostHelperFailed "host_helper_failed" Configuration Request
        "a helper or callback of Paperclip failed or did not answer"
        "Read the message; look into Paperclip's own log at that time, and start the run again."
    BundleFailed "bundle_failed" Configuration Request
        "the agent's skills and instructions could not be laid out on the shared volume"
        "Check that the folder that the message names exists, is writable and has space."

    OtherTaskAlive "other_task_alive" Guard Job
        "it belongs to another run of the agent, for another task, and is alive"
        "Wait until that Job has ended, or delete it if its run is over."
    OtherSessionAlive "other_session_alive" Guard Job
        "it belongs to another run of the agent, in another session, and is alive"
        "Wait until that Job has ended, or delete it if its run is over."
    UnknownTaskAlive "unknown_task_alive" Guard Job
        "it is alive, and its task or that of this run is not known"
        "Delete the Job if its run is over; a run without a task id takes over no Job."
    ReattachDisabled "reattach_disabled" Guard Job
        "it is alive from an earlier run, and taking over is switched off"
        "Wait until that Job has ended, delete it, or set reattachOrphanedJobs to true."
    SameRunAlive "same_run_alive" Guard Job
        "it belongs to this very run and is alive already"
        "Wait for the host that follows this Job; delete the Job if no host does."
    TakenOver "taken_over" Guard Job
        "another host took this run for dead and barred its Job"
        "Look for a host that stalls for more than 30 s while it starts runs, such as one that swaps or is throttled."
    GuardForbidden "guard_forbidden" Guard Request
        "the Role does not let the run list the agent's Jobs"
        "Grant the verbs of docs/permissions.md to the service account of Paperclip's pod."
    GuardUnreachable "guard_unreachable" Guard Request
        "the agent's Jobs could not be listed"
        "Check that the API server can be reached from Paperclip's pod, and start the run again."

    JobQuotaExceeded "job_quota_exceeded" Create Job
        "a ResourceQuota of the namespace refused it"
        "Delete Jobs that are over, or raise the quota that the message names."
    JobAdmissionRefused "job_admission_refused" Create Job
        "an admission policy or webhook refused it"
        "Change what the policy objects to, or exempt Paperclip's Jobs from the policy that the message names."
    JobCreateForbidden "job_create_forbidden" Create Job
        "the Role does not let the run create it"
        "Grant the verbs of docs/permissions.md to the service account of Paperclip's pod."
    JobInvalid "job_invalid" Create Job
        "the API server did not find its fields valid"
        "Correct the setting of the agent that the message names, such as a label, a selector or a quantity."
    NamespaceMissing "namespace_missing" Create Job
        "the namespace it was to be created in does not exist"
        "Create the namespace, or correct the setting namespace."
    NamespaceTerminating "namespace_terminating" Create Job
        "the namespace it was to be created in is being deleted"
        "Wait until the namespace is gone and create it anew, or use another."
    JobCreateTimeout "job_create_timeout" Create Job
        "the API server did not answer its creation in time"
        "Check the load of the API server and its admission webhooks; a Job that was created late is deleted."
    JobCreateUnreachable "job_create_unreachable" Create Job
        "the API server could not be reached, or failed, when it was to be created"
        "Check that the API server can be reached from Paperclip's pod, and start the run again."
    JobCreateFailed "job_create_failed" Create Job
        "the API server refused its creation"
        "Read the API server's answer in the message."
    PromptSecretFailed "prompt_secret_failed" Create Job
        "the Secret with its prompt could not be created"
        "Grant secrets: create to the service account of Paperclip's pod, and check quotas on Secrets."

    PodQuotaExceeded "pod_quota_exceeded" Pod Job
        "a ResourceQuota of the namespace refused its pod"
        "Free or raise the quota that the message names, or lower the agent's requests and limits."
    PodSecurityRefused "pod_security_refused" Pod Job
        "PodSecurity refused its pod"
        "Run agents in a namespace whose PodSecurity level admits them, or remove the settings that the message names."
    LimitRangeRefused "limit_range_refused" Pod Job
        "a LimitRange of the namespace refused its pod"
        "Bring the agent's requests and limits into the range that the message names."
    PodAdmissionRefused "pod_admission_refused" Pod Job
        "an admission policy or webhook refused its pod"
        "Change what the policy objects to, or exempt agent pods from the policy that the message names."
    ServiceAccountMissing "service_account_missing" Pod Job
        "the service account of its pod does not exist"
        "Create the service account in the namespace of the Jobs, or correct the setting serviceAccountName."
    PodRefused "pod_refused" Pod Job
        "the API server refused its pod"
        "Read the API server's words in the message and in `kubectl describe job`."
    JobSuspended "job_suspended" Pod Job
        "it was suspended, as a queue does, for longer than the run waits"
        "Look at the queue (such as `kubectl get workloads`), free its quota, or raise queueTimeoutSec."
    PodNotCreated "pod_not_created" Pod Job
        "its pod was not created, and nothing that the run may read says why"
        "Run `kubectl describe job`, and grant events: list so that the next run can name the reason."

    SchedulingGated "scheduling_gated" Schedule Pod
        "a scheduling gate held it back for longer than the run waits"
        "Find the controller that owns the gate in the pod's spec.schedulingGates, or raise queueTimeoutSec."
    UnschedulableResources "unschedulable_resources" Schedule Pod
        "no node has the resources that it requests"
        "Add nodes or lower the agent's requests; raise unschedulableGraceSec where an autoscaler adds nodes slowly."
    UnschedulableTaint "unschedulable_taint" Schedule Pod
        "every node that fits has a taint that it does not tolerate"
        "Add a toleration to the agent's tolerations, or remove the taint."
    UnschedulableSelector "unschedulable_selector" Schedule Pod
        "no node matches its node selector or affinity"
        "Correct the agent's nodeSelector, or label a node accordingly."
    UnschedulableVolume "unschedulable_volume" Schedule Pod
        "its volume is not bound, or cannot be used on any node that fits"
        "Look at the claim with `kubectl describe pvc`; a ReadWriteOnce claim ties all pods to one node."
    Unschedulable "unschedulable" Schedule Pod
        "the scheduler found no node for it"
        "Read the scheduler's words in the message and in `kubectl describe pod`."
    NotScheduled "not_scheduled" Schedule Pod
        "no scheduler took it"
        "Check that the scheduler runs, and that a scheduler of the pod's schedulerName exists."

    ImageNotFound "image_not_found" Start Pod
        "its image does not exist in the registry"
        "Correct the image and its tag in the agent's configuration, or push it."
    ImageUnauthorized "image_unauthorized" Start Pod
        "the registry did not let its node pull the image"
        "Check the image's name, and give Paperclip's own pod imagePullSecrets that are valid for it: agent pods have the same."
    RegistryUnreachable "registry_unreachable" Start Pod
        "its node could not reach the image's registry"
        "Check DNS, proxy and network of the node, and that the registry is up."
    RegistryUntrusted "registry_untrusted" Start Pod
        "its node and the image's registry do not agree on TLS"
        "Have the node trust the authority of the registry's certificate, or renew it; a registry without TLS has to be allowed in the node's container runtime."
    RegistryRateLimited "registry_rate_limited" Start Pod
        "the registry limits how often its node may pull"
        "Wait, give Paperclip's own pod imagePullSecrets of an account with a higher limit, or pull from a mirror."
    ImagePullFailed "image_pull_failed" Start Pod
        "its image could not be pulled"
        "Read the kubelet's words in the message and in `kubectl describe pod`."
    ImagePullSlow "image_pull_slow" Start Pod
        "pulling its image took longer than the run waits"
        "Raise podStartTimeoutSec, make the image smaller, or pull it to the nodes beforehand."
    ImageNameInvalid "image_name_invalid" Start Pod
        "its image's name is not valid"
        "Correct the image in the agent's configuration."
    ImageNeverPulled "image_never_pulled" Start Pod
        "its image is not on the node, and its pull policy is Never"
        "Set imagePullPolicy to IfNotPresent, or put the image on the node."
    ImageInspectFailed "image_inspect_failed" Start Pod
        "its node could not inspect the image"
        "Look at the node's disk and container runtime; pull the image anew."
    ImageSignatureInvalid "image_signature_invalid" Start Pod
        "its image's signature was refused"
        "Sign the image, or correct the node's signature policy."
    SecretMissing "secret_missing" Start Pod
        "a Secret that it needs does not exist"
        "Create the Secret that the message names in the namespace of the Jobs."
    ConfigMapMissing "config_map_missing" Start Pod
        "a ConfigMap that it needs does not exist"
        "Create the ConfigMap that the message names in the namespace of the Jobs."
    ConfigKeyMissing "config_key_missing" Start Pod
        "a Secret or ConfigMap that it needs lacks a key"
        "Add the key that the message names, or drop the reference to it."
    ContainerConfigInvalid "container_config_invalid" Start Pod
        "its container's configuration cannot be used"
        "Read the kubelet's words in the message, such as runAsNonRoot with an image that runs as root."
    ContainerCreateFailed "container_create_failed" Start Pod
        "its container could not be created"
        "Read the container runtime's words in the message; look at the node if they are about the node."
    ContainerRunFailed "container_run_failed" Start Pod
        "its container could not be run"
        "Check that the image holds sh and claude, and read the container runtime's words in the message."
    ContainerStartFailed "container_start_failed" Start Pod
        "its container could not be started"
        "Check that the image holds sh and claude for the node's architecture."
    ContainerHookFailed "container_hook_failed" Start Pod
        "a lifecycle hook of a container failed"
        "Look for what adds the hook (a sidecar injector) and at its command."
    ContainerCrashLoop "container_crash_loop" Start Pod
        "a container of it ends again and again"
        "Read that container's log with `kubectl logs --previous`."
    InitContainerFailed "init_container_failed" Start Pod
        "an init container of it failed"
        "Read the log of the init container that the message names."
    InitContainerOutOfMemory "init_container_out_of_memory" Start Pod
        "an init container of it used more memory than its limit and was killed"
        "Raise the memory limit of the init container that the message names: podTemplate or what injects it sets that."
    VolumeAttachFailed "volume_attach_failed" Start Pod
        "a volume could not be attached to its node"
        "See which node holds the volume (`kubectl get volumeattachments`); a ReadWriteOnce volume is on one node only."
    VolumeMountFailed "volume_mount_failed" Start Pod
        "a volume could not be mounted on its node"
        "Read the kubelet's words in the message; check that the volume's source (NFS server, Secret, claim) exists."
    NodeOutOfCpu "node_out_of_cpu" Start Pod
        "its node refused it for lack of CPU"
        "Start the run again: the scheduler chose a node that had filled up meanwhile."
    NodeOutOfMemory "node_out_of_memory" Start Pod
        "its node refused it for lack of memory"
        "Start the run again: the scheduler chose a node that had filled up meanwhile."
    NodeOutOfPods "node_out_of_pods" Start Pod
        "its node refused it because it runs as many pods as it may"
        "Start the run again, or raise the node's maxPods."
    NodeAffinityRefused "node_affinity_refused" Start Pod
        "its node refused it because its labels do not match any more"
        "Start the run again: the node's labels changed after the pod was scheduled."
    NodeAdmissionRefused "node_admission_refused" Start Pod
        "its node refused it"
        "Read the kubelet's words in the message (device plugins, topology, sysctls), and look at the node."
    StartTimeout "start_timeout" Start Pod
        "its container did not start for longer than the run waits"
        "Read `kubectl describe pod`; raise podStartTimeoutSec if the node is only slow."

    EvictedByApi "evicted_by_api" Ended Pod
        "it was evicted through the Eviction API, as a drain does"
        "Start the run again; protect long runs by a PodDisruptionBudget or drain when no agent runs."
    EvictedForMemory "evicted_for_memory" Ended Pod
        "its node was short of memory and evicted it"
        "Raise the agent's memory request to what it needs, or use nodes with more memory."
    EvictedForDisk "evicted_for_disk" Ended Pod
        "its node was short of disk and evicted it"
        "Free the node's disk, or give the agent an ephemeral-storage request."
    EvictedForStorageLimit "evicted_for_storage_limit" Ended Pod
        "it used more ephemeral storage than it may and was evicted"
        "Let the agent write to its volume, or raise the limit that the message names."
    EvictedByNode "evicted_by_node" Ended Pod
        "its node evicted it"
        "Read the kubelet's words in the message, and look at the node's conditions."
    Preempted "preempted" Ended Pod
        "the scheduler preempted it for a pod of higher priority"
        "Give agents a priority class of their own, or add capacity."
    PreemptedByNode "preempted_by_node" Ended Pod
        "its node ended it for a critical pod"
        "Add capacity: the node had no room for a pod that it must run."
    NodeTainted "node_tainted" Ended Pod
        "its node got a taint that it does not tolerate"
        "Look at the node's condition: not ready, unreachable, or tainted by hand."
    NodeLost "node_lost" Ended Pod
        "its node was lost"
        "Look at the node; start the run again once it is back or replaced."
    NodeShutdown "node_shutdown" Ended Pod
        "its node was shut down"
        "Start the run again; spot nodes and upgrades end pods this way."
    PodDisrupted "pod_disrupted" Ended Pod
        "it was ended by the cluster for a reason of its own"
        "Read the reason in the message: a controller or the node gives it, in the pod's condition DisruptionTarget or status."
    JobDeleted "job_deleted" Ended Job
        "it was deleted by an unknown API client, and its pod with it"
        "Find the client in the API server's audit log: kubectl, a clean-up script, a GitOps controller."
    JobDeletedForeground "job_deleted_foreground" Ended Job
        "it was deleted in the foreground by an unknown API client, and its pod first"
        "Find the client in the API server's audit log: kubectl, a clean-up script, a GitOps controller."
    JobOrphaned "job_orphaned" Ended Job
        "it was deleted by an unknown API client that left its pod behind"
        "Delete the pod if it still runs; raw DELETE requests need propagationPolicy Background."
    PodDeleted "pod_deleted" Ended Pod
        "it was deleted by an unknown API client"
        "Find the client in the API server's audit log: kubectl, a descheduler, a clean-up script."
    NamespaceDeleted "namespace_deleted" Ended Job
        "its namespace was deleted"
        "Find who deleted the namespace in the API server's audit log."
    JobSuspendedMidRun "job_suspended_mid_run" Ended Job
        "it was suspended while it ran, as a queue does that preempts"
        "Raise the priority of agents in the queue, or its quota, and start the run again."
    JobDeadline "job_deadline" Ended Job
        "it reached its own deadline"
        "Raise timeoutSec of the run that created the Job."
    PodDeadline "pod_deadline" Ended Pod
        "it was active for longer than its activeDeadlineSeconds"
        "Find the admission webhook that sets the deadline of pods: the run itself sets one of the Job only, by timeoutSec."
    TimeLimit "time_limit" Ended Job
        "the run took longer than it may"
        "Raise timeoutSec, or give the agent less to do in one run."
    CancelledByHost "cancelled_by_host" Ended Job
        "Paperclip cancelled the run"
        "Nothing: the cancel was asked for."
    CancelledByControlPlane "cancelled_by_control_plane" Ended Job
        "the run was cancelled in Paperclip's control plane"
        "Nothing: the cancel was asked for."
    HostShutdown "host_shutdown" Ended Job
        "Paperclip's process was shut down and deleted it"
        "Set hostShutdown to leave so that a Job outlives its host and the next run takes it over."
    LeftByHost "left_by_host" Ended Job
        "Paperclip's process was shut down and left it running"
        "Nothing: the agent's next run attaches to it."

    OutOfMemory "out_of_memory" Exit Pod
        "its container used more memory than its limit and was killed"
        "Raise resources.limits.memory of the agent."
    Killed "killed" Exit Pod
        "its container was killed by SIGKILL, and nothing says by whom"
        "Look at the node's kernel log: mostly the memory of the whole node, or of the pod, ran out."
    Terminated "terminated" Exit Pod
        "its container was ended by SIGTERM, and nothing says by whom"
        "Look at what the agent ran, and at the node: the pod itself was not asked to end."
    Crashed "crashed" Exit Pod
        "its container crashed by a signal"
        "Look for the signal's cause in the image: a wrong architecture, a broken Node.js, too small a stack."
    CommandNotFound "command_not_found" Exit Pod
        "the CLI is not in the image, or cannot be executed"
        "Use an image in which `claude` is on the PATH."
    ExitCode "exit_code" Exit Pod
        "its container ended with an exit code that means failure"
        "Read the CLI's last lines in the run's log."
    ContainerStatusUnknown "container_status_unknown" Exit Pod
        "how its container ended is not known to its node"
        "Look at the node: its kubelet or container runtime was restarted or overloaded."

    CliFailed "cli_failed" Output Pod
        "the CLI reported a failure as its result"
        "Read the CLI's words in the message."
    MaxTurns "max_turns" Output Pod
        "the CLI took as many turns as it may in one run"
        "Nothing: the agent continues in its next run. Raise maxTurnsPerRun if that happens often."
    UsageLimit "usage_limit" Output Pod
        "the account has used what it may for now"
        "Nothing: the next run starts when the limit is lifted. Use an account with a higher limit if that happens often."
    ProviderUnavailable "provider_unavailable" Output Pod
        "the model's API was overloaded, failed or could not be reached"
        "Nothing, if it happens once: the run is repeated. Else check the API's status, its base URL, and the pod's network."
    AuthRequired "auth_required" Output Pod
        "the model's API did not accept the CLI's credential"
        "Renew the credential that the message names, then start the run again."
    ModelNotFound "model_not_found" Output Pod
        "the model does not exist, or the account may not use it"
        "Correct the model in the agent's configuration."
    BillingFailed "billing_failed" Output Pod
        "the account at the model's provider cannot be charged"
        "Add credit to the account, or correct its way of payment, then start the run again."
    ModelRefused "model_refused" Output Pod
        "the model refused to answer"
        "Change what the task asks for, or use another model."
    SessionBroken "session_broken" Output Pod
        "the model's API refuses what its session holds"
        "Nothing: the session is forgotten, and the next run begins a new one."
    SessionUnavailable "session_unavailable" Output Pod
        "the CLI does not know the session that it was to resume"
        "Nothing: the session is forgotten, and the next run begins a new one."
    LlmEmptyResponse "llm_empty_response" Output Pod
        "the model answered with nothing"
        "Check the model's API: an outage, a wrong base URL, a proxy that cuts streams."
    Truncated "truncated" Output Pod
        "the CLI ended in the middle of an answer"
        "Read the CLI's last lines in the run's log, and start the run again."
    NoResult "no_result" Output Pod
        "the CLI ended with exit code 0 and printed no result"
        "Check that the image's `claude` is the CLI and not a wrapper that prints something else."
    HungAfterResult "hung_after_result" Output Pod
        "the CLI printed its result, did not exit, and was ended"
        "Look for processes that the agent left running; a success result counts all the same."
    LogLost "log_lost" Output Pod
        "its log was gone before it was read to the end"
        "Find out what deletes pods of Jobs that have just ended."
    LogRotated "log_rotated" Output Pod
        "its log was rotated away before it was read to the end"
        "Raise the kubelet's containerLogMaxSize, or look for what kept the log from being read meanwhile."
    JobTtlTooShort "job_ttl_too_short" Output Job
        "it was complete and removed before its log was read to the end"
        "Raise ttlSecondsAfterFinished."
    LogForbidden "log_forbidden" Output Pod
        "the Role does not let the run read its log"
        "Grant pods/log: get to the service account of Paperclip's pod."
    LogUnreadable "log_unreadable" Output Pod
        "its log could not be read to its end"
        "Check that the API server reaches the node's kubelet (port 10250)."

    ApiUnreachable "api_unreachable" Api Job
        "the API server did not answer for longer than the run waits"
        "Check the API server; the Job is kept, and the agent's next run takes it over."
    PodsForbidden "pods_forbidden" Api Job
        "the Role does not let the run read its pod"
        "Grant the verbs of docs/permissions.md to the service account of Paperclip's pod."
    PodUnreadable "pod_unreadable" Api Job
        "its pod could not be read"
        "Check the API server, and start the run again."
    ReattachWithoutPod "reattach_without_pod" Api Job
        "it was to be taken over and has no pod"
        "Delete the Job if it stays without a pod; see `kubectl describe job`."

    InternalError "internal_error" Internal Request
        "a bug of this package ended the run"
        "Report it with the message; the agent's next run attaches to the Job if it is alive."
}

/// `docs/troubleshooting.md`.
#[cfg(test)]
fn troubleshooting() -> String {
    let mut text = String::from(
        "# Troubleshooting\n\n\
         <!-- Written from src/forensics/cause.rs by `npm run docs`; do not edit. -->\n\n\
         A failed run's `errorMessage` ends with a sentence that says what happened, to which object and when. The same run's\n\
         `resultJson.k8s` has the code (`cause`), the sentence (`summary`), what to do next (`hint`) and what the run saw: times,\n\
         conditions, containers, and how its log was read. Find the code here.\n\n\
         What a run cannot see it does not say: which client deleted an object is in the API server's audit log only. Nor does it\n\
         know of lines that a kubelet never sends: one that lags behind more than one rotation of a log that it follows skips whole\n\
         files without a sign, as `kubectl logs -f` shows. What can be told is marked in the run's log: a log that was rotated while\n\
         the run had no stream open, and a file that is sent again from its start. Raise the kubelet's `containerLogMaxSize` and\n\
         `containerLogMaxFiles` for agents that print thousands of lines a second.\n",
    );
    for stage in Stage::ALL {
        let (heading, introduction) = stage.section();
        text.push_str(&format!(
            "\n## {heading}\n\nStage `{}`. {introduction}\n\n| cause | what it means | what to do |\n|---|---|---|\n",
            stage.as_str()
        ));
        for cause in Cause::ALL.iter().filter(|cause| cause.stage() == stage) {
            text.push_str(&format!("| `{}` | {} | {} |\n", cause.code(), cause.meaning(), cause.hint()));
        }
    }
    text
}

impl Cause {
    /// What happened to this object, as a sentence without its full stop: `Pod p was evicted …`, `Pod p: its node …`.
    pub(crate) fn sentence(self, object: &str) -> String {
        match self.says().strip_prefix("it ") {
            Some(rest) => format!("{object} {rest}"),
            None => format!("{object}: {}", self.says()),
        }
    }

    /// What happened, for the docs.
    #[cfg(test)]
    fn meaning(self) -> String {
        let subject = if self.about() == About::Job { "The Job" } else { "The pod" };
        match self.says().strip_prefix("it ") {
            Some(rest) => format!("{subject} {rest}."),
            None => format!("{}{}.", self.says()[..1].to_uppercase(), &self.says()[1..]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn causes_have_a_code_each_and_whole_sentences() {
        let codes: HashSet<_> = Cause::ALL.iter().map(|cause| cause.code()).collect();
        assert_eq!(codes.len(), Cause::ALL.len(), "no code twice");
        assert!(codes.len() >= 45);
        for cause in Cause::ALL {
            let (code, says, hint) = (cause.code(), cause.says(), cause.hint());
            assert!(code.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{code}");
            assert!(!says.ends_with('.') && !says.contains(['\n', '|']), "{code}: a clause");
            assert!(hint.ends_with('.') && !hint.contains(['\n', '|']), "{code}: a sentence");
            assert!(hint.starts_with(|c: char| c.is_ascii_uppercase()), "{code}");
            assert!(Stage::ALL.contains(&cause.stage()), "{code}");
        }
    }

    /// `npm run docs` writes the file.
    #[test]
    fn troubleshooting_is_what_the_table_says() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/troubleshooting.md");
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(file, troubleshooting()).expect("docs can be written");
        }
        let written = std::fs::read_to_string(file).unwrap_or_default();
        assert!(written == troubleshooting(), "docs/troubleshooting.md is stale: run `npm run docs`");
    }
}
