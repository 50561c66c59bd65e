// What PAPERCLIP_K8S_LOG writes to the host's stderr.
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { clusterForHost } from '../support/host.js';
import { killHosts, startHost } from '../support/processes.js';

let cluster;

beforeAll(async () => {
  cluster = await clusterForHost();
});

afterAll(async () => {
  killHosts();
  await cluster.stop();
});

/** Makes one run in a host of its own and returns what the host wrote to stderr. */
async function stderrOfRun(level, options = {}) {
  const { output, ended } = startHost(cluster, { options, env: { PAPERCLIP_K8S_LOG: level } });
  expect(await ended).toEqual({ code: 0, signal: null });
  expect(output.result, output.errors).toMatchObject({ exitCode: 0 });
  return output.errors;
}

it('debug writes stages, requests and watches, and no credentials', async () => {
  const secrets = { authToken: `token-${randomUUID()}`, apiKey: `key-${randomUUID()}` };
  const lines = await stderrOfRun('debug', {
    authToken: secrets.authToken,
    env: { ANTHROPIC_API_KEY: secrets.apiKey },
  });
  expect(lines).toMatch(/DEBUG \S+::client.*: answered request="create job \S+" status=201 ms=\d+/);
  const stages = [...lines.matchAll(/DEBUG \S+::run\S*: ([a-z ]+) run="\S+" job="\S+"/g)].map(
    (match) => match[1],
  );
  expect(stages).toEqual([
    'claimed',
    'guarded',
    'prepared',
    'created',
    'pod found',
    'ended',
    'log read',
    'cleaned up',
  ]);
  expect(lines).toMatch(/DEBUG \S+::runner: resolved run="\S+"/);
  expect(lines).toMatch(/DEBUG \S+::watch::.*: watch opened kind="pods" namespace="\S+"/);
  const token = /token: (\S+)/.exec(readFileSync(cluster.kubeconfig, 'utf8'))?.[1] ?? '';
  for (const secret of [...Object.values(secrets), token]) {
    expect(lines.includes(secret), 'a credential in the log').toBe(false);
  }
});

it('info leaves requests out', async () => {
  expect(await stderrOfRun('info')).not.toContain('request=');
});

it.each(['', 'off'])('%o writes nothing', async (level) => {
  expect(await stderrOfRun(level)).toBe('');
});

it('an unknown level is reported once, and writes nothing else', async () => {
  expect(await stderrOfRun('verbose')).toMatch(/^PAPERCLIP_K8S_LOG is not one of .*\n$/);
});
