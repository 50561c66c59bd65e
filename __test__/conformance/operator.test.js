// What operators run in a terminal, as they run it: the program of the package, in a process of its own.
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { eventually } from '../support/host.js';
import { conformanceCluster } from './support/clusters.js';
import { ownNamespace } from './support/namespaces.js';
import { runsOn } from './support/runs.js';

const program = fileURLToPath(new URL('../../js/bin.js', import.meta.url));

let cluster;
let namespace;
let runs;

beforeAll(async () => {
  cluster = await conformanceCluster();
  namespace = await ownNamespace(cluster);
  runs = runsOn(cluster, namespace.name);
});

afterAll(async () => {
  await namespace?.remove();
  await cluster?.close();
});

/**
 * Runs the program with an account. No output ever has that account's token.
 *
 * @param {string} as
 * @param {string[]} args
 * @returns {Promise<{code: unknown, out: string, err: string}>}
 */
async function run(as, ...args) {
  const kubeconfig = cluster.kubeconfigs[as];
  const seen = await new Promise((resolve) => {
    execFile(
      process.execPath,
      [program, ...args, '--kubeconfig', kubeconfig, '--namespace', namespace.name],
      (error, out, err) => resolve({ code: error ? error.code : 0, out, err }),
    );
  });
  const [, token = ''] = /"?token"?: *"?([^"\s]+)/.exec(readFileSync(kubeconfig, 'utf8')) ?? [];
  expect(token.length, 'a token to look for').toBeGreaterThan(8);
  // Accounts of the embedded cluster have their own name for a token.
  const text = (seen.out + seen.err).replaceAll(`system:serviceaccount:${cluster.namespace}:${token}`, '');
  expect(text).not.toContain(token);
  return seen;
}

const levels = ({ checks }) => Object.fromEntries(checks.map(({ code, level }) => [code, level]));

describe.concurrent('doctor', () => {
  it('finds_that_the_recommended_role_is_enough', async () => {
    const { code, out, err } = await run('recommended', 'doctor', '--json', '--pod', cluster.hostPod);
    const report = JSON.parse(out);
    expect(levels(report)).toMatchObject({
      k8s_api_reachable: 'info',
      k8s_rbac_job_create: 'info',
      k8s_rbac_secret_create: 'info',
    });
    expect(report.checks.filter(({ level }) => level === 'error')).toEqual([]);
    expect({ code, err }).toEqual({ code: 0, err: '' });
  });

  it('finds_what_an_older_role_lacks', async () => {
    const { code, out } = await run('existing', 'doctor', '--pod', cluster.hostPod);
    expect(out).toMatch(/^paperclip-adapter-claude-k8s \S+, Node v\d+/);
    expect(out).toMatch(/^warn +.*watch/m);
    expect(out).toMatch(/^error +.*not allowed to create Secrets/m);
    expect(out).toMatch(/\nfail: 2 errors, [1-9]\d* warnings, \d+ ok\n$/);
    expect(code).toBe(1);
  });

  it('fails_with_a_token_that_the_cluster_refuses', async () => {
    const { code, out } = await run('wrong', 'doctor', '--json', '--pod', cluster.hostPod);
    expect(levels(JSON.parse(out))).toMatchObject({ k8s_api_unreachable: 'error' });
    expect(code).toBe(1);
  });
});

describe('runs', () => {
  it('lists_what_is_at_work_and_what_holds_it', async () => {
    const abort = new AbortController();
    const { signal } = abort;
    const atWork = runs.start({ scenario: 'hang', signal });
    const held = runs.start({ signal, config: { image: cluster.unpullable } });
    const rows = await eventually(
      async () => {
        const { code, out, err } = await run('existing', 'runs', '--json');
        expect({ code, err }).toEqual({ code: 0, err: '' });
        const all = JSON.parse(out);
        const of = ({ agentId }) => all.find(({ agent }) => agent === agentId);
        return of(atWork)?.state === 'running' && of(held)?.cause && [of(atWork), of(held)];
      },
      { within: 120_000, every: 500 },
    );
    expect(rows[0]).toMatchObject({ run: atWork.ctx.runId, cause: null });
    expect(rows[1]).toMatchObject({
      run: held.ctx.runId,
      state: 'waiting',
      cause: expect.stringContaining('Image pull failed for "claude"'),
    });
    const { out } = await run('existing', 'runs');
    expect(out).toMatch(/^JOB +AGENT +TASK +STATE +AGE +CAUSE\n/);
    expect(out).toMatch(new RegExp(String.raw`^${rows[0].job} .* running +\d+\S$`, 'm'));
    abort.abort();
    await Promise.all([atWork.done, held.done]);
    await runs.nothingLeft(atWork);
    await runs.nothingLeft(held);
    expect(await run('existing', 'runs')).toEqual({ code: 0, out: 'No Jobs of this adapter.\n', err: '' });
  });

  it('fails_with_a_reason_where_it_may_not_list', async () => {
    const { code, out, err } = await run('wrong', 'runs');
    expect({ code, out }).toEqual({ code: 2, out: '' });
    expect(err).toMatch(/^[^\n]*401[^\n]*\n$|^[^\n]*[Uu]nauthorized[^\n]*\n$/);
  });
});
