// A task whose run ends badly, from its assignment to the comment of a user that starts the next run.
import { TYPE, api, ended, eventually, lab, newIssue, runsOf, seen, started } from './support.js';

/** The host's own adapter, which runs the CLI as a process of the host. */
export const LOCAL = 'claude_local';

/** How long the host has to start or schedule a retry: some of its sweeps. */
const RETRY_WITHIN = 60_000;

/**
 * What was seen of a task.
 *
 * @typedef {object} Seen
 * @property {any} run the host's record of the run that ended badly
 * @property {string} issue the status of the issue after it
 * @property {{kind: 'none' | 'scheduled' | 'at once', afterMs?: number, atNotBefore?: boolean}} retry
 * @property {any} [next] the host's record of the run that the comment started, if it started one
 * @property {string} last the status of the issue after that run
 */

/**
 * What an adapter needs to run the fake CLI.
 *
 * @param {string} adapter
 * @param {Record<string, string>} env
 * @param {object} [config]
 */
export function configOf(adapter, env, config) {
  const common = { env: { CLAUDE_STAND_IN_DELAY_MS: '20', ...env }, ...config };
  return adapter === LOCAL ? { engine: 'cli', command: lab.cli, ...common } : { ...lab.config, ...common };
}

const SUCCESS = { CLAUDE_STAND_IN_SCENARIO: 'success' };

/**
 * Assigns a task whose run ends badly, then repairs the cause and comments.
 *
 * @param {{id: string}} company
 * @param {object} task
 * @param {string} task.name of agent and issue
 * @param {string} [task.adapter]
 * @param {Record<string, string>} task.env what the fake CLI plays
 * @param {object} [task.config]
 * @param {object} [task.repaired] the configuration after the repair, by default the same
 * @param {boolean} [task.resumed] the ending is that of the second run
 * @param {boolean} [task.cancel] the board cancels the run
 * @param {(scene: {agent: any, issue: any, run: any}) => Promise<unknown>} [task.during]
 * @param {(scene: {agent: any, issue: any, run: any}) => Promise<unknown>} [task.repair]
 * @returns {Promise<Seen>}
 */
export async function play(company, task) {
  const { adapter = TYPE, config } = task;
  const first = task.resumed ? SUCCESS : task.env;
  const agent = await api('POST', `/companies/${company.id}/agents`, {
    name: task.name,
    role: 'engineer',
    adapterType: adapter,
    adapterConfig: configOf(adapter, first, task.repaired ?? config),
  });
  if (task.repaired) await configure(agent, configOf(adapter, first, config));
  const issue = await newIssue(company, agent, task.name);
  const begun = task.resumed ? await second(issue, agent, task) : await started(issue, agent);
  const scene = { agent, issue, run: begun };
  if (task.cancel) await cancelled(begun);
  const [run] = await Promise.all([ended(begun, { within: 300_000, every: 1_000 }), task.during?.(scene)]);
  // Of an agent that succeeded the host asks what has become of the task: that is not a retry.
  const succeeded = run.status === 'succeeded';
  if (succeeded) await released(issue, run);
  const retry = succeeded ? { kind: /** @type {const} */ ('none') } : await retryOf(agent, run);
  const { status } = succeeded ? await api('GET', `/issues/${issue.id}`) : await settled(agent, issue);

  await task.repair?.(scene);
  await configure(agent, configOf(adapter, SUCCESS, task.repaired ?? config));
  const next = await commented(issue, agent);
  // At once: of an agent that succeeded the host asks what has become of the task, and blocks it without an answer.
  const last = await api('GET', `/issues/${issue.id}`);
  // Otherwise the host goes on to ask the agent what has become of the task.
  await api('PATCH', `/issues/${issue.id}`, { status: 'done' });
  return { run, issue: status, retry, next, last: last.status };
}

/** Replaces an agent's configuration. */
export const configure = (agent, adapterConfig) =>
  api('PATCH', `/agents/${agent.id}`, { adapterConfig, replaceAdapterConfig: true });

/**
 * The run that resumes the session of a first, successful one.
 *
 * @param {any} issue
 * @param {any} agent
 * @param {{adapter?: string, env: Record<string, string>, config?: object}} task
 */
async function second(issue, agent, { adapter = TYPE, env, config }) {
  const before = await ended(await started(issue, agent), { within: 240_000, every: 1_000 });
  if (before.status !== 'succeeded')
    throw new Error(`the first run ended as ${before.status}: ${before.error}`);
  await free(agent);
  // The host may have asked meanwhile what has become of the task, and have blocked it: that is not for the second run to answer.
  const { status } = await api('GET', `/issues/${issue.id}`);
  if (status === 'blocked') {
    await api('PATCH', `/issues/${issue.id}`, { status: 'in_progress' });
    await free(agent);
  }
  await configure(agent, configOf(adapter, env, config));
  const { id } = await comment(issue, 'Go on, please.');
  // Not just any later run: of an agent that succeeded the host asks, in a run of its own, what has become of the task.
  return runOf(agent, id);
}

async function cancelled(run) {
  await seen(run, '"subtype":"init"', { within: 240_000, every: 500 });
  await api('POST', `/heartbeat-runs/${run.id}/cancel`);
}

/** The retry that the host has scheduled or started after a run. */
export async function retryOf(agent, run) {
  const find = async () => (await runsOf(agent)).find(({ retryOfRunId }) => retryOfRunId === run.id);
  const retry = await eventually(find, 'a retry', { within: RETRY_WITHIN, every: 1_000 }).catch(
    () => undefined,
  );
  if (!retry) return { kind: /** @type {const} */ ('none') };
  const { scheduledRetryAt, contextSnapshot } = retry;
  const at = scheduledRetryAt ?? contextSnapshot?.scheduledRetryAt;
  if (!at) return { kind: /** @type {const} */ ('at once') };
  const notBefore = run.resultJson?.retryNotBefore;
  return {
    kind: /** @type {const} */ ('scheduled'),
    afterMs: Date.parse(at) - Date.parse(run.finishedAt),
    atNotBefore: Boolean(notBefore) && Date.parse(notBefore) === Date.parse(at),
  };
}

/** Waits until no run of the agent is under way. */
const free = (agent) =>
  eventually(
    async () => {
      const runs = await runsOf(agent);
      return !runs.some(({ status }) => status === 'queued' || status === 'running');
    },
    `the end of the runs of ${agent.name}`,
    { within: 300_000, every: 1_000 },
  );

/** Waits until a run that has ended holds its issue no longer; what comes sooner joins that run, and is not seen to start one. */
const released = (issue, run) =>
  eventually(
    async () => (await api('GET', `/issues/${issue.id}`)).executionRunId !== run.id,
    `the release of ${issue.identifier}`,
  );

/** The issue once no run of the agent is under way. */
export async function settled(agent, issue) {
  await free(agent);
  return api('GET', `/issues/${issue.id}`);
}

/** Comments as a user. */
export const comment = (issue, body = 'It is repaired, go on.') =>
  api('POST', `/issues/${issue.id}/comments`, { body });

/** The run that a comment started, or joined before it began. */
export const runOf = (agent, commentId) =>
  eventually(
    async () =>
      (await runsOf(agent)).find(
        ({ contextSnapshot, status }) =>
          status !== 'scheduled_retry' && JSON.stringify(contextSnapshot ?? {}).includes(commentId),
      ),
    `the run of a comment for ${agent.name}`,
    { within: 300_000, every: 1_000 },
  );

/** Comments as a user; resolves to the end of the run that the comment started, if it started one. */
async function commented(issue, agent) {
  const { id } = await comment(issue);
  const woken = await runOf(agent, id).catch(() => undefined);
  return woken && ended(woken, { within: 180_000, every: 1_000 });
}

/**
 * Does tasks side by side, most of whose time is waiting; resolves each to its value or its error.
 *
 * @template T
 * @param {number} atOnce
 * @param {Iterable<[string, () => Promise<T>]>} tasks by name
 * @returns {Map<string, Promise<T | Error>>}
 */
export function sideBySide(atOnce, tasks) {
  /** @type {Map<string, Promise<T | Error>>} */
  const results = new Map();
  /** @type {(() => Promise<void>)[]} */
  const waiting = [];
  for (const [name, task] of tasks) {
    const result = new Promise((resolve) => {
      waiting.push(() => task().then(resolve, resolve));
    });
    results.set(name, result);
  }
  const worker = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) await next();
  };
  for (let n = 0; n < atOnce; n += 1) void worker();
  return results;
}
