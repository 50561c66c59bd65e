/** What the host shows about the configuration of a `claude_k8s` agent (Markdown). */
export const agentConfigurationDoc = `# Configuring a \`claude_k8s\` agent

The \`claude_k8s\` adapter runs every Claude Code run in a Kubernetes Job pod of its own, isolated from the
Paperclip server process. The Job copies its surroundings from the running Paperclip Deployment: image,
imagePullSecrets, DNS config and the PVC.

All keys are optional.

## Core

- \`model\` (string): Claude model id.
- \`effort\` (string): reasoning effort for \`--effort\`: low, medium or high. \`thinkingEffort\` is read too.
- \`maxTurnsPerRun\` (number): turn limit for one run; 0 means unlimited.
- \`instructionsFilePath\` (string): absolute path of a Markdown file with instructions, handed to Claude with
  \`--append-system-prompt-file\`.
- \`promptTemplate\`, \`bootstrapPromptTemplate\` (string): the prompt of every run, and an extra first section
  for runs that start a new session.
- \`extraArgs\` (string[]): arguments appended to the claude command.
- \`env\` (object): environment variables; they win over variables inherited from the Deployment.
- \`cwd\` (string): working directory when the run has no workspace; default \`/paperclip\`.
- \`dangerouslySkipPermissions\` (boolean): let Claude use tools without asking; default true, since no one
  can answer inside a Job.

## Kubernetes

- \`namespace\` (string): where Jobs are created; default is the Deployment's namespace.
- \`serviceAccountName\` (string): service account of the Job pods; default is the cluster's.
- \`image\` (string): container image; default is the Deployment's image.
- \`imagePullPolicy\` (string): default \`IfNotPresent\`.
- \`kubeconfig\` (string): absolute path of a kubeconfig file outside of PAPERCLIP_HOME; default is the in-cluster service account.
- \`resources\` (object): \`requests\` and \`limits\`, each with \`cpu\` and \`memory\`. Nested
  (\`{"limits": {"cpu": "2"}}\` under \`resources\`) or as flat keys such as \`resources.limits.cpu\`.
- \`nodeSelector\` (object): labels a node must carry; one \`key=value\` per line works as well.
- \`tolerations\` (array): Kubernetes tolerations, as an array or as a string holding a JSON array.
- \`labels\` (object): extra labels for the Job; one \`key=value\` per line works as well. Keys under
  \`paperclip.io/\` and \`app.kubernetes.io/\` are reserved.
- \`ttlSecondsAfterFinished\` (number): seconds after which Kubernetes removes a finished Job; default 300.
- \`retainJobs\` (boolean): do not clean Jobs up after completion.
- \`reattachOrphanedJobs\` (boolean): default true: after a restart, attach to a running orphan of the same
  agent, task and session. With false, any orphan that has not ended blocks the run.
- \`hostShutdown\` (string): what happens to running Jobs when the Paperclip server is told to stop:
  \`delete\` removes them, \`leave\` lets them run on so that they can be reattached. Without it they are left
  where the server continues with their tasks after a restart, else deleted.
- \`announceHarness\` (boolean): record with each run that the claude command ran, which is what lets the
  server continue with the task after a restart; default true.
- \`claudeHome\` (string): \`shared\` (default): all agents have one folder of Claude's settings, sessions and
  credentials; \`agent\`: each agent has its own on the shared volume, with a login of its own. Recommended with
  either: \`CLAUDE_CODE_OAUTH_TOKEN\` in the environment, which concurrent pods need not refresh.
- \`unschedulableGraceSec\` (number): seconds a pod may stay unschedulable before the run fails, which gives
  a cluster autoscaler time to add a node; default 0.
- \`imagePullGraceSec\` (number): seconds for which pulling the image may fail before the run does; default 60
  and at most \`podStartTimeoutSec\`, 0 fails at the first failure.
- \`resultGraceSec\` (number): seconds Claude may print no event after its result before its Job is deleted; the run
  keeps its result; default 60.
- \`apiOutageSec\` (number): seconds the Kubernetes API may be away in mid-run before the run fails; its Job is
  then kept; default 600.
- \`podStartTimeoutSec\` (number): seconds a Job may be without a pod, and its pod take for one step of its start,
  such as pulling a large image; each step begins the time anew; default 600.
- \`queueTimeoutSec\` (number): seconds a Job may be suspended by a queue (Kueue) or its pod be held by a
  scheduling gate; default 0: as long as the queue takes.

## The pod

- \`inheritScheduling\` (boolean): run where the Paperclip pod may run (node selector, tolerations, node affinity,
  priority, runtime class, topology spread); default true.
- \`priorityClassName\`, \`runtimeClassName\` (string): default are those of the Paperclip pod.
- \`imagePullSecrets\` (array): names of Secrets, beside those of the Paperclip pod.
- \`podAnnotations\` (object): annotations of the pod; one \`key=value\` per line works as well.
- \`terminationGracePeriodSeconds\` (number): seconds Claude may take to end after SIGTERM; default 30.
- \`runAsUser\`, \`fsGroup\` (number): user of the agent and group of its volumes; default are those of the
  Paperclip pod, else 1000.
- \`paperclipApiUrl\` (string): where the agent reaches the Paperclip API; default is the Deployment's.
- \`podTemplate\` (object): a Kubernetes pod template, also as YAML or JSON text, merged over the pod: sidecars,
  volumes of its own, affinity; no Secrets, privileges or access to the node, unless the operator opened it. The container of
  the agent is called \`claude\`.
- \`mcpServers\` (object): MCP servers of the agent by name, beside those of Paperclip, as in Claude's own files
  (\`{"name": {"type": "http", "url": "…"}}\`), also as JSON text. Of one name that both give, Paperclip's counts.

## Output filter

- \`enableRtk\` (boolean): truncate oversized tool output through a PostToolUse hook; default false.
- \`rtkMaxOutputBytes\` (number): byte limit of the filter; default 50000.

## Operation

- \`timeoutSec\` (number): time limit of a run in seconds; 0 means no timeout.
- \`graceSec\` (number): extra seconds to wait after the Job's deadline.
- \`secretRef\` (string): name of the Secret with API keys that the environment test looks for in the Jobs'
  namespace; default \`paperclip-secrets\`. No run reads it: a Job has the variables of the Deployment.
- \`testWithJob\` (boolean): the environment test also runs a Job, for up to two minutes; default false.

## What a Job inherits without configuration

- API keys of model providers (\`ANTHROPIC_API_KEY\`, \`OPENAI_API_KEY\`, …) and \`PAPERCLIP_API_URL\`
- image, imagePullSecrets, DNS config, the PVC mount and the security context

## Good to know

- Sessions resume through the \`/paperclip\` PVC, which all pods share; \`HOME\` is \`/paperclip\`.
- Skills that come with the container image are available in every run.
- Prompt, variables and extra arguments are in a Secret that Kubernetes deletes with the Job. Where Paperclip may
  not create Secrets they stand in the Job, and a busybox init container writes the prompt
  into an emptyDir volume.
`;
