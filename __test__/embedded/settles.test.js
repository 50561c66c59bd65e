// Whatever fails, `execute` resolves with a result that says what the host may do with the task.
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createServerAdapter } from '../../index.js';
import { clusterForHost, hostRun, leftovers } from '../support/host.js';
import { temporaryFolder } from '../support/temporary.js';

const adapter = createServerAdapter();
let cluster;

beforeAll(async () => {
  cluster = await clusterForHost();
});

afterAll(async () => {
  expect(await leftovers(cluster)).toEqual([]);
  await cluster.stop();
});

const NOTHING_STARTED = { kind: 'bootstrap', providerWorkStarted: false };

function brokenKubeconfig() {
  const file = path.join(temporaryFolder('kubeconfig'), 'broken');
  writeFileSync(file, 'clusters: [');
  return file;
}

/** A kubeconfig of a server that is not there. */
function absentServer() {
  const file = path.join(temporaryFolder('kubeconfig'), 'absent');
  const named = { name: 'absent' };
  const config = {
    'current-context': 'absent',
    contexts: [{ ...named, context: { cluster: 'absent', user: 'absent' } }],
    users: [{ ...named, user: { token: 'x' } }],
    clusters: [{ ...named, cluster: { server: 'https://127.0.0.1:9' } }],
  };
  writeFileSync(file, JSON.stringify(config));
  return file;
}

const thrown = (text) => () => {
  throw new Error(text);
};

const getter = (object, name) =>
  Object.defineProperty(object, name, { get: thrown(`the getter of ${name}`), enumerable: true });

describe('a failure before the Job exists is a result that says that nothing had started', () => {
  /** @type {[string, (ctx: any) => unknown, string, string?][]} */
  const rows = [
    [
      'a missing kubeconfig',
      ({ config }) => (config.kubeconfig = '/no/such/file'),
      'configuration_incomplete',
    ],
    [
      'a broken kubeconfig',
      ({ config }) => (config.kubeconfig = brokenKubeconfig()),
      'configuration_incomplete',
    ],
    ['an API that is away', ({ config }) => (config.kubeconfig = absentServer()), 'k8s_api_unreachable'],
    ['an onMeta that throws', (ctx) => (ctx.onMeta = thrown('database')), 'k8s_prepare_failed', 'database'],
    [
      'an onMeta that rejects with something without a text',
      (ctx) => (ctx.onMeta = () => Promise.reject(Object.create(null))),
      'k8s_prepare_failed',
      'onMeta failed: an error without a text',
    ],
    [
      'a helper of the host that throws',
      ({ config }) => getter(config, 'paperclipSkillSync'),
      'k8s_prepare_failed',
      'the getter of paperclipSkillSync',
    ],
    [
      'a template that cannot be rendered',
      ({ agent, config }) => {
        getter(agent, 'motto');
        config.promptTemplate = '{{agent.motto}}';
      },
      'k8s_prepare_failed',
      'the getter of motto',
    ],
    [
      'a folder of the volume that cannot be made',
      ({ agent }) => (agent.companyId = 'x'.repeat(300)),
      'k8s_prepare_failed',
      'cannot create',
    ],
    ['a context that is not JSON', ({ context }) => (context.self = context), 'k8s_prepare_failed'],
    [
      'an onCancellationReady that throws',
      (ctx) => (ctx.onCancellationReady = thrown('no lease')),
      'k8s_prepare_failed',
      'no lease',
    ],
    ['a context that throws', (ctx) => getter(ctx, 'runtime'), 'k8s_prepare_failed', 'the getter of runtime'],
  ];

  it.each(rows)('%s', { timeout: 30_000 }, async (_what, spoil, code, text = '') => {
    const { ctx } = hostRun(cluster);
    spoil(ctx);
    const result = await adapter.execute(ctx);
    expect(result).toMatchObject({ exitCode: null, errorCode: code, executionRecovery: NOTHING_STARTED });
    expect(result.errorMessage).toContain(text);
    // Its agent is free.
    const next = hostRun(cluster, { agent: { id: ctx.agent.id } });
    expect((await adapter.execute(next.ctx)).errorMessage).toBeNull();
  });

  it('no context at all', async () => {
    const result = await adapter.execute(/** @type {any} */ (undefined));
    expect(result).toMatchObject({ errorCode: 'k8s_prepare_failed', executionRecovery: NOTHING_STARTED });
  });
});
