// What the suites do with the lab: requests to the host's API and the cluster, stops and starts of the host.
import { randomUUID } from 'node:crypto';

/** The lab that `__test__/host/run.mjs` started. */
export const lab = JSON.parse(process.env.HOST_LAB ?? 'null');
if (!lab) throw new Error('these suites need a host: npm run test:host -- [suite], not vitest alone');

/** The type of the agents that use this adapter. @type {string} */
export const TYPE = lab.type;

/** The final states of a run. */
const OVER = new Set(['succeeded', 'failed', 'cancelled', 'timed_out', 'interrupted']);

/** The requests that change something, in as many queues as may be sent side by side. @type {Promise<unknown>[]} */
const changes = [Promise.resolve(), Promise.resolve(), Promise.resolve()];
let turn = 0;

/**
 * One request to the host's API; rejects for anything but 2xx, with the answer in the message. Of those that change something a
 * few are sent side by side: the host's transactions wait for second connections to its database, and a dozen at once have
 * taken all of them.
 *
 * @param {string} method
 * @param {string} where below `/api`
 * @param {unknown} [body]
 * @returns {Promise<any>}
 */
export function api(method, where, body) {
  if (method === 'GET') return ask(method, where, body);
  turn = (turn + 1) % changes.length;
  const answer = changes[turn].then(() => ask(method, where, body));
  changes[turn] = answer.catch(() => {});
  return answer;
}

async function ask(method, where, body) {
  const response = await fetch(`${lab.url}/api${where}`, {
    method,
    headers: { 'content-type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${where}: ${response.status} ${text}`);
  return parsed(text);
}

/** Sends one request to the lab itself, see `startControl` in `lab/lab.mjs`. */
export async function order(name, details = {}) {
  const response = await fetch(`${lab.control}/${name}`, { method: 'POST', body: JSON.stringify(details) });
  const { value, error } = /** @type {{value?: any, error?: string}} */ (await response.json());
  if (error) throw new Error(`${name}: ${error}`);
  return value;
}

/** Installs the adapter by its name, as packed. */
export const install = () => api('POST', '/adapters/install', { packageName: lab.packed.name });

/** Waits until the adapter is installed, and installs it unless another suite does so: without the first, several begin at once. */
export async function installed() {
  const isThere = async () => (await api('GET', '/adapters')).some(({ type }) => type === TYPE);
  if (await isThere()) return;
  if (await order('install/is-first')) await install();
  else await eventually(isThere, 'the adapter that another suite installs');
}

export const newCompany = (name) => api('POST', '/companies', { name });

/**
 * An agent whose pods play a scenario of the fake CLI.
 *
 * @param {{id: string}} company
 * @param {string} name
 * @param {{scenario?: string, env?: Record<string, string>, config?: object}} [options]
 */
export function newAgent(company, name, { scenario = 'success', env, config } = {}) {
  return api('POST', `/companies/${company.id}/agents`, {
    name,
    role: 'engineer',
    adapterType: TYPE,
    adapterConfig: {
      ...lab.config,
      env: { CLAUDE_STAND_IN_SCENARIO: scenario, CLAUDE_STAND_IN_DELAY_MS: '20', ...env },
      ...config,
    },
  });
}

/** Asks the host to wake an agent; resolves to the run that it queued, or to the reason why it did not. */
const askToWake = (agent, details) =>
  api('POST', `/agents/${agent.id}/wakeup`, { source: 'on_demand', triggerDetail: 'manual', ...details });

/** Wakes an agent without a task; resolves to the run that the host queued. */
export async function wake(agent, payload) {
  const run = await askToWake(agent, payload ? { payload } : {});
  if (!run.id) throw new Error(`the host did not wake ${agent.name}: ${JSON.stringify(run)}`);
  return run;
}

/**
 * Waits until the host is done with the runs of an agent. After the end of a run the host still stores its session and
 * queues further runs, and calls the agent free only then: so the agent is polled before its runs.
 */
const idle = (agent) =>
  eventually(
    async () => {
      const { status } = await api('GET', `/agents/${agent.id}`);
      return status !== 'running' && (await runsOf(agent)).every((run) => OVER.has(run.status));
    },
    `the end of all runs of ${agent.name}`,
    { within: 180_000 },
  );

/**
 * The answers to a wake for a task with a run under way: the host keeps the wake and queues its run once the task is
 * free. It gives the second answer if the run under way ends before the host answers.
 */
const KEPT = new Set(['issue_execution_deferred', 'wakeup_skipped']);

/**
 * Wakes an agent for a task it has worked on; resolves to the run. The host gets one request: each further wake that it
 * keeps would be one more run, behind which the next one waits. The reason identifies the wake. Without a reason the
 * host delays a wake by minutes if the last two runs of the task left no trace in it.
 */
export async function wakeFor(issue, agent) {
  await idle(agent);
  const reason = `spec:${randomUUID()}`;
  const answer = await askToWake(agent, { reason, payload: { issueId: issue.id, taskId: issue.id } });
  if (answer.id) return answer;
  const answered = `the answer to a wake of ${agent.name} for ${issue.identifier} was ${JSON.stringify(answer)}`;
  if (!KEPT.has(answer.reason)) throw new Error(answered);
  return eventually(
    async () => (await runsOf(agent)).find(({ contextSnapshot }) => contextSnapshot?.wakeReason === reason),
    `the run of a wake that is kept; ${answered}`,
  );
}

export const getRun = ({ id }) => api('GET', `/heartbeat-runs/${id}`);

/** Waits for the end of a run; resolves to the host's record of it. */
export const ended = (run, options) =>
  eventually(
    async () => {
      const now = await getRun(run);
      return OVER.has(now.status) && now;
    },
    `the end of run ${run.id}`,
    options,
  );

/** Wakes an agent and waits for the end of its run. */
export const oneRun = async (agent, payload) => ended(await wake(agent, payload));

/** A task that is assigned to the agent, for which the host wakes it. */
export const newIssue = (company, agent, title) =>
  api('POST', `/companies/${company.id}/issues`, {
    title,
    description: title,
    status: 'todo',
    assigneeAgentId: agent.id,
  });

/** All runs of an agent, the newest first. */
export const runsOf = (agent) =>
  api('GET', `/companies/${agent.companyId}/heartbeat-runs?agentId=${agent.id}`);

/** The run that the host started for a task. */
export const started = (issue, agent) =>
  eventually(async () => (await runsOf(agent)).at(-1), `a run for the task ${issue.identifier}`);

/** Waits for the end of the run that the host started for a task. */
export const runOn = async (issue, agent) => ended(await started(issue, agent));

/** The lines of a run's log so far, by stream: `{stream, line}` in order. */
export async function logOf({ id }) {
  let content = '';
  for (let offset = 0; ;) {
    // The log does not exist before its first line.
    const part = await api('GET', `/heartbeat-runs/${id}/log?offset=${offset}&limitBytes=200000`).catch(
      (error) => {
        if (error.message.includes('Run log not found')) return { content: '' };
        throw error;
      },
    );
    content += part.content;
    if (part.nextOffset === undefined || part.nextOffset === null || part.nextOffset <= offset) break;
    offset = part.nextOffset;
  }
  // What comes after the last newline is still being written.
  return content
    .slice(0, content.lastIndexOf('\n') + 1)
    .split('\n')
    .filter(Boolean)
    .map((entry) => JSON.parse(entry))
    .flatMap(({ stream, chunk }) =>
      chunk
        .split('\n')
        .filter(Boolean)
        .map((line) => ({ stream, line })),
    );
}

/** The events that the agent printed. */
export const eventsOf = async (run) =>
  (await logOf(run)).filter(({ line }) => line.startsWith('{')).map(({ line }) => JSON.parse(line));

/** The lines of the adapter itself. */
export const adapterLinesOf = async (run) =>
  (await logOf(run)).filter(({ line }) => line.startsWith('[paperclip]')).map(({ line }) => line);

/** All text of the assistant, in order. */
export const textsOf = (events) =>
  events
    .filter(({ type }) => type === 'assistant')
    .flatMap(({ message }) => message.content)
    .filter(({ type }) => type === 'text')
    .map(({ text }) => text);

/**
 * Waits until the log of a run has a line that contains the text.
 *
 * @param {{id: string}} run
 * @param {string} text
 * @param {{within?: number, every?: number}} [options]
 */
export const seen = (run, text, options) =>
  eventually(
    async () => (await logOf(run)).some(({ line }) => line.includes(text)),
    `"${text}" in the log of ${run.id}`,
    options,
  );

/** The agent's Jobs and their pods that exist now. */
export async function objectsOf(agent) {
  const selector = encodeURIComponent(`paperclip.io/agent-id=${agent.id}`);
  const list = async (where) =>
    (await order('cluster/get', { path: `${where}?labelSelector=${selector}` })).items;
  return {
    jobs: await list(`/apis/batch/v1/namespaces/${lab.namespace}/jobs`),
    pods: await list(`/api/v1/namespaces/${lab.namespace}/pods`),
  };
}

/**
 * Waits until the cluster has no objects of the agent, or of one of its Jobs: Kubernetes deletes pods in the
 * background.
 */
export const gone = (agent, job) =>
  eventually(
    async () => {
      const { jobs, pods } = await objectsOf(agent);
      const names = [
        ...jobs.map(({ metadata }) => metadata.name),
        ...pods.map(({ metadata }) => metadata.labels['job-name']),
      ];
      return job === undefined ? names.length === 0 : !names.includes(job);
    },
    `no objects of ${job ?? agent.name}`,
  );

/** Polls until `check` gives something truthy and resolves to it. */
export async function eventually(check, what, { within = 120_000, every = 200 } = {}) {
  const deadline = Date.now() + within;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`not seen within ${within / 1000} s: ${what}`);
    await new Promise((resolve) => {
      setTimeout(resolve, every);
    });
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
