// The environment test with a Job of its own: what only a pod finds out.
import { once } from 'node:events';
import { createServer } from 'node:http';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import { Problem } from '../../tools/dev/lib.mjs';
import { packages } from '../../tools/kubernetes/debian.mjs';
import { busyboxFiles, programFiles } from '../../tools/kubernetes/image.mjs';
import { openCluster } from '../../tools/kubernetes/index.mjs';
import { programs } from '../../tools/simulator/cluster.mjs';
import { addressOfMachine } from '../support/address.js';
import { eventually } from '../support/host.js';
import { conformanceCluster } from './support/clusters.js';
import { adapter } from './support/runs.js';

/** Like the image of agents of these specs, and with Node, as Paperclip's own has it. */
const IMAGE = 'docker.io/paperclip/agent-with-node:test';

let cluster;
/** Why the image is not there. @type {string | undefined} */
let lacking;
/** Paperclip's API as far as the test asks it. */
const api = createServer((request, response) => {
  response.writeHead(request.url === '/api/health' ? 200 : 404).end('{}');
});

beforeAll(async () => {
  api.listen(0, '0.0.0.0');
  await once(api, 'listening');
  cluster = await conformanceCluster();
  if (cluster.name === 'embedded') return;
  const files = [
    ...busyboxFiles(path.join(await packages(), 'bin/busybox')),
    ...programFiles('/usr/local/bin/claude', path.join(programs, 'claude')),
    ...programFiles('/usr/local/bin/node', process.execPath),
  ];
  await openCluster()
    .addImage({ name: IMAGE, files })
    .catch((error) => {
      // The nodes of a user's cluster get no images; the reason says which archive to load.
      if (cluster.foreign === undefined || !(error instanceof Problem)) throw error;
      lacking = error.message;
    });
});

beforeEach(({ skip }) => skip(lacking !== undefined, lacking));

afterAll(async () => {
  api.close();
  await cluster?.close();
});

/** A port that is Paperclip's API in a pod of the real cluster. */
const SIDECAR_PORT = 8_099;

/** How a pod reaches Paperclip's API: pods of the real cluster do not reach this machine. */
async function reachable() {
  if (cluster.name === 'embedded') {
    const { port } = /** @type {import('node:net').AddressInfo} */ (api.address());
    return { paperclipApiUrl: `http://${addressOfMachine()}:${port}` };
  }
  const serve = 'mkdir -p /tmp/www/api && echo ok > /tmp/www/api/health && exec busybox httpd -f';
  const sidecar = {
    name: 'api',
    image: IMAGE,
    restartPolicy: 'Always',
    command: ['sh', '-c', `${serve} -p ${SIDECAR_PORT} -h /tmp/www`],
    startupProbe: { tcpSocket: { port: SIDECAR_PORT }, periodSeconds: 1, failureThreshold: 60 },
    securityContext: { runAsUser: 1000, runAsNonRoot: true, allowPrivilegeEscalation: false },
  };
  return {
    image: IMAGE,
    paperclipApiUrl: `http://127.0.0.1:${SIDECAR_PORT}`,
    // The sidecar has no handler for SIGTERM.
    terminationGracePeriodSeconds: 1,
    podTemplate: { spec: { initContainers: [sidecar] } },
  };
}

/** What the test finds with this configuration, by code. */
async function found({ as = 'recommended', env = {}, ...config } = /** @type {any} */ ({})) {
  const { checks } = await adapter.testEnvironment({
    companyId: 'company-1',
    adapterType: 'claude_k8s',
    config: {
      kubeconfig: cluster.kubeconfigs[as],
      testWithJob: true,
      ...(await reachable()),
      inheritScheduling: false,
      resources: { requests: { cpu: '10m', memory: '16Mi' }, limits: { cpu: '1', memory: '256Mi' } },
      env: { CLAUDE_STAND_IN_DELAY_MS: '5', ...env },
      ...config,
    },
  });
  return Object.fromEntries(checks.map(({ code, level, message }) => [code, { level, message }]));
}

const hello = (checks) =>
  Object.entries(checks)
    .filter(([code]) => code.startsWith('k8s_hello_'))
    .map(([code, { level }]) => `${level} ${code}`);

const ALL_IS_WELL = [
  'info k8s_hello_started',
  'info k8s_hello_cli',
  'info k8s_hello_volume',
  'info k8s_hello_folder',
  'info k8s_hello_api',
  'info k8s_hello_probe_passed',
];

describe.concurrent('the environment test with a Job', () => {
  it.each(['recommended', 'existing'])('finds that all is well with the %s Role', async (as) => {
    const checks = await found({ as });
    expect(hello(checks), JSON.stringify(checks)).toEqual(ALL_IS_WELL);
    expect(checks.k8s_hello_cli.message).toMatch(/^The image has Claude Code 2\.1\.\d+/);
  });

  it('runs no Job unless it is configured', async () => {
    expect(hello(await found({ testWithJob: false }))).toEqual([]);
  });

  it('finds an image that cannot be pulled', async () => {
    const checks = await found({ image: cluster.unpullable });
    expect(hello(checks)).toEqual(['error k8s_hello_failed']);
    expect(checks.k8s_hello_failed.message).toMatch(/did not start: Image pull failed for "claude"/);
  });

  it('finds a selector that no node has', async () => {
    const checks = await found({ nodeSelector: 'no-node-has=this' });
    expect(hello(checks)).toEqual(['error k8s_hello_failed']);
    expect(checks.k8s_hello_failed.message).toMatch(/did not start: Pod unschedulable: /);
  });

  it('finds an account that does not exist, also by a dry run', async () => {
    const [tried, run] = await Promise.all([
      found({ serviceAccountName: 'not-there' }),
      found({ serviceAccountName: 'not-there', as: 'existing' }),
    ]);
    expect(tried.k8s_pod_refused).toMatchObject({
      level: 'error',
      message: expect.stringContaining('serviceaccount "not-there" not found'),
    });
    expect(hello(tried)).toEqual([]);
    expect(run.k8s_pod_not_tried.level).toBe('info');
    expect(hello(run)).toEqual(['error k8s_hello_failed']);
    // This Role shows no Events.
    expect(run.k8s_hello_failed.message).toContain('did not start: its Job has no pod');
  });

  it('finds that the model, the login or the API is not there', async () => {
    const result = { type: 'result', subtype: 'success', is_error: true, api_error_status: 404 };
    const events = [
      { type: 'assistant', error: 'model_not_found', message: { content: [] } },
      { ...result, result: 'There is an issue with the selected model (x).' },
    ];
    const [model, login, nothing] = await Promise.all([
      found({
        env: {
          CLAUDE_STAND_IN_SCENARIO: 'script',
          CLAUDE_STAND_IN_EVENTS: events.map((event) => JSON.stringify(event)).join('\n'),
          CLAUDE_STAND_IN_EXIT_CODE: '1',
        },
      }),
      found({ env: { CLAUDE_STAND_IN_SCENARIO: 'auth' } }),
      found({ paperclipApiUrl: 'http://127.0.0.1:9' }),
    ]);
    expect(model.k8s_hello_probe_failed).toMatchObject({
      level: 'error',
      message: expect.stringContaining('the selected model (x)'),
    });
    expect(login.k8s_hello_probe_failed.level).toBe('error');
    expect(nothing.k8s_hello_api.level).toBe('error');
    expect(nothing.k8s_hello_probe_passed.level).toBe('info');
  });
});

describe('after all of them', () => {
  it('nothing is left of the Jobs', async () => {
    const ns = cluster.namespace;
    const selector = encodeURIComponent('paperclip.io/agent-id=environment-test');
    await eventually(
      async () => {
        const lists = await Promise.all([
          cluster.api.get(`/apis/batch/v1/namespaces/${ns}/jobs?labelSelector=${selector}`),
          cluster.api.get(`/api/v1/namespaces/${ns}/pods?labelSelector=${selector}`),
        ]);
        return lists.every(({ items }) => items.length === 0);
      },
      { every: 250 },
    );
    await eventually(
      async () => {
        const { items } = await cluster.api.get(`/api/v1/namespaces/${ns}/secrets`);
        return items.every(({ metadata }) => !metadata.name.includes('environment-test'));
      },
      { every: 250 },
    );
  });
});
