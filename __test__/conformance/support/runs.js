// Runs of the built addon on a cluster, and what is asserted of each.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';

import { createServerAdapter } from '../../../index.js';
import { agentLines, eventually, hostRun } from '../../support/host.js';

export const adapter = createServerAdapter();

/** The folder for the output of each run, to see why a spec failed. */
const transcripts = fileURLToPath(new URL('../../../target/conformance/', import.meta.url));

/** Small requests, so that many runs fit on a small node. */
const RESOURCES = { requests: { cpu: '10m', memory: '16Mi' }, limits: { cpu: '1', memory: '256Mi' } };

/**
 * Runs on a cluster.
 *
 * @param {import('./clusters.js').ConformanceCluster} cluster
 * @param {string} [ns] the namespace of their Jobs, if it is not the host's
 */
export function runsOn(cluster, ns = cluster.namespace) {
  /**
   * A context as the host passes it; `as` is the kubeconfig.
   *
   * @param {{as?: string} & Parameters<typeof hostRun>[1]} [options]
   */
  function prepare({ as = 'recommended', config, ...options } = {}) {
    return hostRun(
      { kubeconfig: cluster.kubeconfigs[as] },
      {
        ...options,
        config: {
          resources: RESOURCES,
          // The host's pod tolerates every taint that the specs put on its node.
          inheritScheduling: false,
          ...(ns === cluster.namespace ? {} : { namespace: ns }),
          ...config,
        },
      },
    );
  }

  /** The output of all runs of this process, by kubeconfig. @type {Record<string, import('../../support/host.js').Output[]>} */
  const outputs = { existing: [], recommended: [] };

  /** Starts a run; `done` resolves to its result. */
  function start(options) {
    const { ctx, output } = prepare(options);
    outputs[options?.as ?? 'recommended'].push(output);
    const run = { ctx, output, agentId: ctx.agent.id, done: adapter.execute(ctx) };
    // If the spec fails first, nothing awaits the promise.
    run.done.catch((error) => error).then((result) => write(run, options?.scenario, result));
    return run;
  }

  function write({ ctx, output }, scenario = 'success', result) {
    const dir = path.join(transcripts, cluster.name);
    mkdirSync(dir, { recursive: true });
    const head = {
      at: new Date().toISOString(),
      scenario,
      config: ctx.config,
      result: result instanceof Error ? String(result) : result,
    };
    // The start of a long line is enough to explain a failure.
    const text = [JSON.stringify(head), output.stderr, output.stdout]
      .join('\n')
      .replace(/^(.{2000}).+$/gm, '$1…');
    writeFileSync(path.join(dir, `${scenario}-${ctx.agent.id}.log`), text);
  }

  /** Runs to the result, and asserts that the run left nothing. */
  async function play(options) {
    const run = start(options);
    const result = await run.done;
    await nothingLeft(run);
    return { ...run, result };
  }

  const list = async (api, agentId) => {
    const selector = encodeURIComponent(`paperclip.io/agent-id=${agentId}`);
    return (await cluster.api.get(`${api}?labelSelector=${selector}`)).items;
  };
  const jobs = (agentId) => list(`/apis/batch/v1/namespaces/${ns}/jobs`, agentId);
  const pods = (agentId) => list(`/api/v1/namespaces/${ns}/pods`, agentId);

  /** The one Job of a run, once it is there. */
  const jobOf = ({ agentId }) =>
    eventually(async () => (await jobs(agentId))[0], { within: 60_000, every: 100 });
  /** The one pod of a run, once the agent has printed something. */
  const podOf = (run) =>
    eventually(async () => running(run.output) && (await pods(run.agentId))[0], {
      within: 120_000,
      every: 100,
    });

  /** The Secrets of a run. */
  async function secrets(jobName) {
    const { items } = await cluster.api.get(`/api/v1/namespaces/${ns}/secrets`);
    return items.filter(({ metadata }) => metadata.name.startsWith(`${jobName}-`));
  }

  /**
   * Asserts that no Job, pod or Secret of the run stays. Pods end in the background: after 30 s, and up to a minute
   * later if a kubelet of 1.20 forgot the container.
   */
  async function nothingLeft({ agentId, output }) {
    const [, jobName] = /(?:Created|Reattaching to in-flight) K8s Job:? (\S+)/.exec(output.stdout) ?? [];
    let left;
    await eventually(
      async () => {
        const found = [
          ...(await jobs(agentId)),
          ...(await pods(agentId)),
          ...(jobName ? await secrets(jobName) : []),
        ];
        left = found.map(({ metadata }) => metadata.name);
        return left.length === 0;
      },
      { within: 150_000, every: 250 },
    ).catch(() => expect(left, 'left behind').toEqual([]));
  }

  /** Asserts that no CLI of the agent can be at work: its pods are gone, or `claude` has ended in them. */
  async function stopped(agentId) {
    for (const { metadata, status } of await pods(agentId)) {
      const claude = status.containerStatuses?.find(({ name }) => name === 'claude');
      expect(claude?.state, metadata.name).toHaveProperty('terminated');
    }
  }

  return { prepare, start, play, outputs, jobs, pods, jobOf, podOf, secrets, stopped, nothingLeft };
}

/** Whether the agent has printed something. */
export const running = (output) => output.stdout.includes('"subtype":"init"');

/** The events that the agent printed; a shell may add a line about how the agent ended. */
const events = (output) =>
  agentLines(output)
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line));

/** Every event of a recorded run came once: none is missing, doubled or damaged. */
export function expectRecording(output, name) {
  const file = new URL(`../../../tools/simulator/fixtures/claude-cli-2.1.197/${name}.jsonl`, import.meta.url);
  const recorded = readFileSync(file, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(events(output).map(({ type }) => type)).toEqual(recorded.map(({ type }) => type));
  expectOnce(output);
}

/** No event came twice, and each is whole. */
export function expectOnce(output) {
  const ids = events(output).map((event) => event.uuid ?? JSON.stringify(event));
  expect(ids.length - new Set(ids).size, 'events that came twice').toBe(0);
}

/** The numbers of a `long` run, from 1 without a hole; returns how many. */
export function expectTicks(output) {
  expectOnce(output);
  const numbers = [...output.stdout.matchAll(/tick (\d+) of/g)].map(([, n]) => Number(n));
  const unique = [...new Set(numbers)];
  expect(unique).toEqual(unique.map((_, index) => index + 1));
  return unique.length;
}

/** Counts the numbers of a `flood` run as they come, for a log that is too long to be kept. */
export function floodCounter() {
  let rest = '';
  let next = 1;
  /** @type {string[]} */
  const wrong = [];
  return {
    take: async (stream, chunk) => {
      if (stream !== 'stdout') return;
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const number = /\\"seq\\":(\d+)/.exec(line)?.[1];
        if (number === undefined) continue;
        // A line that was cut does not end with a brace.
        if (Number(number) !== next || !line.endsWith('}')) wrong.push(`${number} where ${next} was due`);
        next = Number(number) + 1;
      }
    },
    expectAll: (count) => {
      expect(wrong).toEqual([]);
      expect(next - 1).toBe(count);
    },
  };
}

/**
 * Checks the numbers of a `flood` run whose log may be rotated away before it is read: none comes twice or too late, and
 * before each hole there is a line that says so.
 *
 * @param {(bytes: number) => Promise<void>} [host] what the host does with a chunk before it takes the next one
 */
export function rotatedFloodCounter(host = async () => {}) {
  let rest = '';
  let last = 0;
  let received = 0;
  let marks = 0;
  let isMarked = false;
  /** @type {string[]} */
  const wrong = [];
  const judge = (line) => {
    if (line.startsWith('[paperclip] Log gap')) {
      marks += 1;
      isMarked = true;
    }
    const found = /\\"seq\\":(\d+)/.exec(line)?.[1];
    if (found === undefined) return;
    const number = Number(found);
    if (number <= last) wrong.push(`${number} after ${last}`);
    else if (number > last + 1 && !isMarked)
      wrong.push(`${last + 1} to ${number - 1} are missing without a mark`);
    if (!line.endsWith('}')) wrong.push(`${number} was cut`);
    isMarked = false;
    last = Math.max(last, number);
    received += 1;
  };
  return {
    take: async (stream, chunk) => {
      await host(chunk.length);
      if (stream !== 'stdout') return;
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      lines.forEach(judge);
    },
    /** Asserts that each of the given number of lines came at most once, and that no hole is unmarked. Returns what was seen. */
    expectMarked: (count) => {
      if (last < count && !isMarked) wrong.push(`${last + 1} to ${count} are missing without a mark`);
      expect(wrong.slice(0, 5)).toEqual([]);
      expect(received).toBeLessThanOrEqual(count);
      return { received, marks, last };
    },
  };
}
