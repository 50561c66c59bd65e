/**
 * @typedef {import('../index.js').ConfigSchema} ConfigSchema
 * @typedef {import('../index.js').ConfigField} ConfigField
 */

/**
 * Options whose label is their value.
 *
 * @param {...string} values
 */
function sameNamed(...values) {
  return values.map((value) => ({ label: value, value }));
}

/**
 * The adapter's own part of the host's form, in form order. Model, effort, instructions and time limits
 * are fields of the host and do not belong here. Additions go to the end.
 *
 * @returns {ConfigField[]}
 */
function fields() {
  return [
    {
      type: 'number',
      key: 'maxTurnsPerRun',
      label: 'Turn limit per run',
      default: 1000,
      hint: 'The most agentic turns one heartbeat run may take. 0 means unlimited.',
    },
    {
      type: 'text',
      key: 'serviceAccountName',
      label: 'Service account',
      hint: 'Service account of the Job pods. Empty: the default one of the cluster.',
    },
    {
      type: 'text',
      key: 'namespace',
      label: 'Job namespace',
      hint: 'Namespace in which Jobs are created. Empty: the one of the Paperclip Deployment.',
    },
    {
      type: 'text',
      key: 'image',
      label: 'Job image',
      hint: 'Container image to use instead of the one of the Paperclip Deployment. Empty: same image.',
    },
    {
      type: 'select',
      key: 'imagePullPolicy',
      label: 'Image pull policy',
      hint: 'When the node fetches the Job image. Unset: IfNotPresent.',
      options: sameNamed('IfNotPresent', 'Always', 'Never'),
    },
    {
      type: 'text',
      key: 'kubeconfig',
      label: 'Kubeconfig path',
      hint: 'Absolute path of a kubeconfig file on the Paperclip server. Empty: the in-cluster service account.',
    },
    {
      type: 'number',
      key: 'ttlSecondsAfterFinished',
      label: 'Auto-cleanup delay (s)',
      hint: 'Seconds after which Kubernetes removes a finished Job by itself. 0 or unset: 300.',
    },
    {
      type: 'toggle',
      key: 'retainJobs',
      label: 'Keep finished Jobs',
      hint: 'Do not delete a Job after its run, so that it can be looked into.',
    },
    {
      type: 'toggle',
      key: 'reattachOrphanedJobs',
      label: 'Reattach after a restart',
      default: true,
      hint: 'After a server restart, join a Job that still runs for the same agent, task and session. Off: any live orphan blocks new runs.',
    },
    {
      type: 'text',
      key: 'resources.requests.cpu',
      label: 'CPU request',
      hint: 'CPU reserved for the pod, for example 100m, 0.5 or 1. Empty: 1000m.',
    },
    {
      type: 'text',
      key: 'resources.requests.memory',
      label: 'Memory request',
      hint: 'Memory reserved for the pod, for example 128Mi, 512Mi or 1Gi. Empty: 2Gi.',
    },
    {
      type: 'text',
      key: 'resources.limits.cpu',
      label: 'CPU limit',
      hint: 'The most CPU the pod may use, for example 100m, 0.5 or 1. Empty: 4000m.',
    },
    {
      type: 'text',
      key: 'resources.limits.memory',
      label: 'Memory limit',
      hint: 'The most memory the pod may use, for example 128Mi, 512Mi or 1Gi. Empty: 8Gi.',
    },
    {
      type: 'textarea',
      key: 'nodeSelector',
      label: 'Node selector',
      hint: 'Labels a node must carry, one key=value per line.',
    },
    {
      type: 'textarea',
      key: 'tolerations',
      label: 'Tolerations',
      hint: 'Kubernetes tolerations as a JSON array.',
    },
    {
      type: 'textarea',
      key: 'labels',
      label: 'Extra Job labels',
      hint: 'Labels added to every Job, one key=value per line.',
    },
    {
      type: 'toggle',
      key: 'enableRtk',
      label: 'Shorten tool output',
      default: false,
      hint: 'Truncate oversized tool output before the model reads it. Each run installs a PostToolUse hook in ~/.claude/settings.json; it needs only Node, no extra binary.',
    },
    {
      type: 'number',
      key: 'rtkMaxOutputBytes',
      label: 'Tool output limit (bytes)',
      default: 50000,
      meta: { visibleWhen: { key: 'enableRtk', value: 'true' } },
      hint: 'With shortening on, output beyond this many bytes is cut and a one-line summary takes its place.',
    },
    {
      type: 'select',
      key: 'hostShutdown',
      label: 'When Paperclip stops',
      hint: 'What happens to running Jobs when the Paperclip server is asked to stop.',
      options: [
        // The host's form stores the first option of a field that is not touched, and nothing where that is empty.
        { label: 'Leave them where Paperclip continues with their tasks', value: '' },
        { label: 'Delete running Jobs', value: 'delete' },
        { label: 'Leave them running', value: 'leave' },
      ],
    },
    {
      type: 'number',
      key: 'unschedulableGraceSec',
      label: 'Wait for a node (s)',
      default: 0,
      hint: 'How long a pod may stay unschedulable before the run fails, so that a cluster autoscaler can add a node. 0: fail at once.',
    },
    {
      type: 'number',
      key: 'imagePullGraceSec',
      label: 'Wait for an image (s)',
      default: 60,
      hint: 'For how long pulling the image may fail before the run does; the node tries again after 10 s, 30 s and 70 s. 0: fail at the first failure.',
    },
    {
      type: 'number',
      key: 'resultGraceSec',
      label: 'Wait for the end of a run (s)',
      default: 60,
      hint: 'How long Claude may print no event after its result before its Job is deleted; the run keeps its result.',
    },
    {
      type: 'number',
      key: 'apiOutageSec',
      label: 'Wait for the Kubernetes API (s)',
      default: 600,
      hint: 'How long the Kubernetes API may be away in mid-run before the run fails; its Job is then kept.',
    },
    {
      type: 'number',
      key: 'podStartTimeoutSec',
      label: 'Wait for the pod to start (s)',
      default: 600,
      hint: 'How long a Job may be without a pod, and its pod take for one step of its start, such as pulling a large image. Each step begins the time anew.',
    },
    {
      type: 'number',
      key: 'queueTimeoutSec',
      label: 'Wait in a queue (s)',
      default: 0,
      hint: 'How long a Job may be suspended by a queue such as Kueue, or its pod held by a scheduling gate, before the run fails. 0: as long as the queue takes.',
    },
    {
      type: 'toggle',
      key: 'announceHarness',
      label: 'Name Claude to Paperclip',
      default: true,
      hint: 'Records with each run that the claude command ran, so that Paperclip continues with the task after a restart. Off: a restart blocks the tasks of running Jobs.',
    },
    {
      type: 'select',
      key: 'claudeHome',
      label: 'Claude settings folder',
      default: 'shared',
      hint: 'Whose the folder of settings, sessions and credentials is. An agent with its own needs a login of its own, or CLAUDE_CODE_OAUTH_TOKEN; a change begins new sessions.',
      options: [
        { label: 'Shared by all agents', value: 'shared' },
        { label: 'One for this agent', value: 'agent' },
      ],
    },
    {
      type: 'toggle',
      key: 'inheritScheduling',
      label: 'Run on the nodes of Paperclip',
      default: true,
      hint: 'Node selector, tolerations, node affinity, priority, runtime class and topology spread of the Paperclip pod. A node selector here replaces the inherited one.',
    },
    {
      type: 'text',
      key: 'priorityClassName',
      label: 'Priority class',
      hint: 'Priority class of the Job pods. Empty: the one of the Paperclip pod.',
    },
    {
      type: 'text',
      key: 'runtimeClassName',
      label: 'Runtime class',
      hint: 'Runtime class of the Job pods, for example gvisor. Empty: the one of the Paperclip pod.',
    },
    {
      type: 'text',
      key: 'imagePullSecrets',
      label: 'Image pull secrets',
      hint: 'Names of further Secrets for pulling images, separated by commas.',
    },
    {
      type: 'textarea',
      key: 'podAnnotations',
      label: 'Pod annotations',
      hint: 'Annotations of the Job pods, one key=value per line.',
    },
    {
      type: 'number',
      key: 'terminationGracePeriodSeconds',
      label: 'Grace period (s)',
      hint: 'Seconds Claude may take to end after SIGTERM. 0 or unset: 30.',
    },
    {
      type: 'number',
      key: 'runAsUser',
      label: 'User id',
      hint: 'User the agent runs as. 0 or unset: the one of the Paperclip container, else 1000.',
    },
    {
      type: 'number',
      key: 'fsGroup',
      label: 'Volume group id',
      hint: 'Group of the volumes of the Job pods. 0 or unset: the one of the Paperclip pod, else 1000.',
    },
    {
      type: 'text',
      key: 'paperclipApiUrl',
      label: 'Paperclip API URL for agents',
      hint: 'Where agents reach the Paperclip API from their pods. Empty: as the Paperclip server has it.',
    },
    {
      type: 'textarea',
      key: 'podTemplate',
      label: 'Pod template',
      hint: 'A Kubernetes pod template (YAML or JSON) merged over the Job pods: sidecars, volumes, affinity. The container of the agent is called claude.',
    },
    {
      type: 'textarea',
      key: 'mcpServers',
      label: 'MCP servers',
      hint: 'MCP servers of the agent beside those of Paperclip, as a JSON object: {"name": {"type": "http", "url": "https://…"}}. ${NAME} in it is a variable of the agent.',
    },
    {
      type: 'toggle',
      key: 'testWithJob',
      label: 'Test with a Job',
      default: false,
      hint: 'Test environment also runs a Job for up to two minutes: it finds a wrong image, node selector, account or model, and asks Claude for one word.',
    },
  ];
}

/**
 * @returns {ConfigSchema} a new object on each call
 */
export function getConfigSchema() {
  return { fields: fields() };
}
