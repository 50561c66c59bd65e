// What operators run in a terminal, on the embedded cluster.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createServerAdapter } from '../../index.js';
import { operate } from '../../js/operator.js';
import { clusterForHost, eventually, gate, hostRun } from '../support/host.js';

let cluster;
beforeAll(async () => {
  cluster = await clusterForHost();
});
afterAll(() => cluster.stop());

/** @param {string[]} argv */
async function run(...argv) {
  const seen = { out: '', err: '' };
  const where = ['--kubeconfig', cluster.kubeconfig, '--namespace', cluster.namespace];
  const code = await operate([...argv, ...where], {
    write: (text) => (seen.out += text),
    warn: (text) => (seen.err += text),
  });
  return { code, ...seen };
}

describe('runs', () => {
  it('shows a run that is under way, and nothing after it', async () => {
    expect(await run('runs')).toEqual({ code: 0, out: 'No Jobs of this adapter.\n', err: '' });
    const { env, open } = gate();
    const host = hostRun(cluster, {
      scenario: 'long',
      env,
      agent: { name: 'Ada \u001B]0;x\u0007\u202E' },
    });
    const ended = createServerAdapter().execute(host.ctx);
    const row = await eventually(async () => {
      const [first] = JSON.parse((await run('runs', '--json')).out);
      return first?.pod ? first : undefined;
    });
    expect(row).toMatchObject({
      agent: host.ctx.agent.id,
      run: host.ctx.runId,
      createdAt: expect.stringMatching(/Z$/),
    });
    const { out } = await run('runs');
    expect(out).toMatch(/^JOB +AGENT +TASK +STATE +AGE +CAUSE\nac-/);
    // oxlint-disable-next-line no-control-regex
    expect(out).not.toMatch(/[\u001B\u0007\u202E]/);
    open();
    expect(await ended).toMatchObject({ exitCode: 0 });
    expect((await run('runs', '--json')).out).toBe('[]\n');
  });
});

describe('doctor', () => {
  it('checks a cluster as the host does', async () => {
    const { code, out } = await run('doctor', '--json');
    const { status, checks } = JSON.parse(out);
    expect(checks.map((check) => check.code)).toEqual(
      expect.arrayContaining(['k8s_api_reachable', 'k8s_rbac_job_create']),
    );
    expect(code).toBe(status === 'fail' ? 1 : 0);
  });
});
