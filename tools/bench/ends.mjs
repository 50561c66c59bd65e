// npm run bench:ends: how long after the end of its CLI a run resolves, on the real cluster of `npm run cluster:up`.
import { randomUUID } from 'node:crypto';
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

import { conformanceCluster } from '../../__test__/conformance/support/clusters.js';
import { enforce } from '../../__test__/conformance/support/policies.js';
import { eventually, hostRun } from '../../__test__/support/host.js';
import { createServerAdapter } from '../../index.js';
import { kubectlProgram } from '../kubernetes/programs.mjs';
import { program, wholeNumber } from '../dev/lib.mjs';
import { percentile } from './report.mjs';

const USAGE = `npm run bench:ends -- [options]
  --runs N      how many runs of each kind, one after the other (default 20)
  --embedded    on the embedded cluster: without the delays of a kubelet`;

const OPTIONS = /** @type {const} */ ({ runs: { type: 'string' }, embedded: { type: 'boolean' } });

/** What each run is: its scenario, what resolves it, and the most that it may take (p99, in ms). */
const KINDS = [
  { name: 'success', scenario: 'success', cancel: false, reach: 100 },
  { name: 'failure', scenario: 'exit-code', cancel: false, reach: 1_500 },
  { name: 'cancel, from the signal on', scenario: 'long', cancel: true, reach: 2_000 },
];
const RESOURCES = { requests: { cpu: '10m', memory: '16Mi' }, limits: { cpu: '1', memory: '256Mi' } };
/** The pod's last line, with the kubelet's stamp. */
const LAST_LINE = /^(\S+) \{"type":"system","subtype":"paperclip_end",/;

await program(USAGE, { options: OPTIONS }, async ({ values }) => {
  const runs = wholeNumber('--runs', values.runs ?? '20', { least: 1 });
  process.env.CONFORMANCE_CLUSTER = values.embedded ? 'embedded' : 'real';
  const cluster = await conformanceCluster();
  const adapter = createServerAdapter();
  let late = 0;
  try {
    for (const sidecar of [false, true]) {
      for (const kind of KINDS) {
        const times = [];
        for (let n = 0; n < runs; n += 1) {
          // A kubelet looks at containers once a second, and a run that waits for that ends in step with it: without the
          // pause the next one would begin in step, too, and each row would show one moment of that second.
          await sleep(Math.random() * 1_000);
          times.push(await measure(cluster, adapter, kind, sidecar));
        }
        late += Number(report(kind, sidecar, times));
      }
    }
  } finally {
    await cluster.close();
  }
  return late > 0 ? 1 : 0;
});

/** Prints a row; whether it misses its reach. */
function report({ name, reach }, sidecar, times) {
  const seen = times.filter((time) => time !== undefined).toSorted((a, b) => a - b);
  const [p50, p99] = [0.5, 0.99].map((share) => percentile(seen, share));
  const missing = times.length - seen.length;
  const row = [
    name.padEnd(28),
    sidecar ? 'with a sidecar   ' : 'without a sidecar',
    `p50 ${p50?.toFixed(0)} ms, p99 ${p99?.toFixed(0)} ms of ${seen.length} runs`,
    `(reach ${reach} ms)`,
    ...(missing > 0 ? [`${missing} runs whose end was not seen`] : []),
  ];
  console.log(row.join('  '));
  return !(p99 <= reach);
}

/** Milliseconds from the end of the CLI, or from the cancel, to the result. */
async function measure(cluster, adapter, { scenario, cancel }, sidecar) {
  const agent = { id: `agent-${randomUUID()}` };
  const remove = sidecar ? await addSidecar(cluster, agent.id) : async () => {};
  const abort = new AbortController();
  const { ctx, output } = hostRun(
    { kubeconfig: cluster.kubeconfigs.recommended },
    {
      scenario,
      agent,
      signal: abort.signal,
      // Slow enough for the second follower to be there before the end.
      env: { CLAUDE_STAND_IN_DELAY_MS: '300' },
      config: { resources: RESOURCES },
    },
  );
  const running = adapter.execute(ctx);
  try {
    const [, pod] = await eventually(() => /Pod running: (\S+)/.exec(output.stdout), {
      within: 60_000,
      every: 5,
    });
    const ended = cancel ? undefined : endOf(cluster, pod);
    let from;
    if (cancel) {
      await eventually(() => output.stdout.includes('"subtype":"init"'), { within: 60_000, every: 5 });
      from = Date.now();
      abort.abort();
    }
    const result = await running;
    const resolved = Date.now();
    if (cancel && /** @type {any} */ (result).resultJson?.executionCancellation?.state !== 'acknowledged') {
      throw new Error(`not acknowledged: ${output.stderr}`);
    }
    from ??= await ended;
    return from === undefined ? undefined : resolved - from;
  } finally {
    await remove();
  }
}

async function addSidecar(cluster, agentId) {
  const value = {
    name: 'beside',
    image: 'busybox:1.36',
    imagePullPolicy: 'IfNotPresent',
    command: ['sh', '-c', 'sleep 600'],
    resources: { requests: { cpu: '1m', memory: '1Mi' } },
  };
  const labels = { 'paperclip.io/agent-id': agentId };
  const patch = [{ op: /** @type {const} */ ('add'), path: '/spec/containers/-', value }];
  const { remove } = await enforce(cluster, { resource: 'pods', labels, patch });
  return remove;
}

/** When the pod printed its last line, as the kubelet has stamped it: a second follower of the log reads it. */
async function endOf(cluster, pod) {
  const args = ['-n', cluster.namespace, 'logs', '-f', '--timestamps', '-c', 'claude', pod];
  const kubectl = spawn(await kubectlProgram(), ['--kubeconfig', cluster.kubeconfigs.admin, ...args], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  try {
    for await (const line of createInterface({ input: kubectl.stdout })) {
      const [, stamp] = LAST_LINE.exec(line) ?? [];
      if (stamp) return Date.parse(stamp.replace(/(\.\d{3})\d*/, '$1'));
    }
    return undefined;
  } finally {
    kubectl.kill();
  }
}
