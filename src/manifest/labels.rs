//! Every label, annotation, container and volume name of the objects this adapter makes, once.
//!
//! Operators select by them and hosts of version 0.1.49 read them: they are a contract (docs/contract.md, "Job
//! manifest").

/// The value of [`LABEL_ADAPTER_TYPE`], as a label and as an annotation; also the adapter's type at the host.
pub(crate) const ADAPTER_TYPE: &str = "claude_k8s";
/// The value of [`LABEL_MANAGED_BY`].
pub(crate) const MANAGED_BY: &str = "paperclip";

/// Label and annotation: which adapter made the object. The guard and the shared watches select by it.
pub(crate) const LABEL_ADAPTER_TYPE: &str = "paperclip.io/adapter-type";
/// Label: the agent a Job belongs to.
pub(crate) const LABEL_AGENT_ID: &str = "paperclip.io/agent-id";
/// Label: the run that created the Job, or took it over.
pub(crate) const LABEL_RUN_ID: &str = "paperclip.io/run-id";
/// Label: the company of the agent.
pub(crate) const LABEL_COMPANY_ID: &str = "paperclip.io/company-id";
/// Label: the task a Job works on.
pub(crate) const LABEL_TASK_ID: &str = "paperclip.io/task-id";
/// Label: the Claude session a Job resumed.
pub(crate) const LABEL_SESSION_ID: &str = "paperclip.io/session-id";
/// Label: who manages the object.
pub(crate) const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label: [`COMPONENT_JOB`] or [`COMPONENT_CLAIM`].
pub(crate) const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// The value of [`LABEL_COMPONENT`] on the Job of a run and on its pod.
pub(crate) const COMPONENT_JOB: &str = "agent-job";
/// The value of [`LABEL_COMPONENT`] on claims and barriers. They do not carry [`LABEL_ADAPTER_TYPE`]: neither the
/// guard nor the shared watches may see them.
pub(crate) const COMPONENT_CLAIM: &str = "agent-claim";

/// Prefixes of labels that only the adapter sets. A configured label with one of them is reported, not used.
pub(crate) const RESERVED_LABEL_PREFIXES: [&str; 2] = ["paperclip.io/", "app.kubernetes.io/"];

/// Prefix of annotations that only the adapter sets.
pub(crate) const RESERVED_ANNOTATION_PREFIX: &str = "paperclip.io/";
/// Annotation of a pod: the container that is meant where none is named, as `kubectl` reads it.
pub(crate) const ANNOTATION_DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Annotation of a Job: the Secrets of its run, separated by commas.
pub(crate) const ANNOTATION_RUN_SECRETS: &str = "paperclip.io/run-secrets";
/// Annotation of a Job: the agent's name, for people.
pub(crate) const ANNOTATION_AGENT_NAME: &str = "paperclip.io/agent-name";
/// Annotation of a Job: the token of its pod's last line, for a host that takes the Job over.
pub(crate) const ANNOTATION_END_TOKEN: &str = "paperclip.io/end-token";
/// Annotation of a Job: what its session depends on, as JSON, for a host that takes the Job over.
pub(crate) const ANNOTATION_SESSION: &str = "paperclip.io/session";
/// Annotation of a prompt Secret: the Job it belongs to, for people who find a Secret without an owner.
pub(crate) const ANNOTATION_JOB_NAME: &str = "paperclip.io/job-name";
/// Annotation of a claim: the name of the Job that its holder is about to create.
pub(crate) const ANNOTATION_CLAIM_FOR_JOB: &str = "paperclip.io/claims-start-of-job";
/// Annotation of a claim: its holder, a value that no other run has.
pub(crate) const ANNOTATION_CLAIM_HOLDER: &str = "paperclip.io/claim-holder";
/// Annotation of a barrier: the Job of the run that put it up.
pub(crate) const ANNOTATION_BARRED_FOR_JOB: &str = "paperclip.io/start-barred-for-job";

/// The container in which the CLI runs.
pub(crate) const CLAUDE_CONTAINER: &str = "claude";
/// The init container that writes the prompt to [`PROMPT_VOLUME`].
pub(crate) const INIT_CONTAINER: &str = "write-prompt";
/// The container of a claim or barrier, which never runs.
pub(crate) const CLAIM_CONTAINER: &str = "claim";
/// The container of the host in the host's own pod, when that pod has several.
pub(crate) const HOST_CONTAINER: &str = "paperclip";

/// Where the agent's container finds the prompt, and what else is too large for a variable.
pub(crate) const PROMPT_DIR: &str = "/tmp/prompt";
/// The volume at [`PROMPT_DIR`]: of the run's Secret, or one that the init container writes the prompt to.
pub(crate) const PROMPT_VOLUME: &str = "prompt";
/// The volume of the prompt Secret.
pub(crate) const PROMPT_SECRET_VOLUME: &str = "prompt-secret";
/// The empty home of an agent that gets parts of the shared volume only.
pub(crate) const HOME_VOLUME: &str = "home";
/// The volume that host and pod share.
pub(crate) const DATA_VOLUME: &str = "data";
