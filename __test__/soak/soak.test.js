// A small soak, which keeps the large one (npm run soak) working; and many runs at the same moment.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

import { createServerAdapter } from '../../index.js';
import { binding } from '../../js/binding.js';
import { planOf } from './plan.mjs';
import { soak } from './soak.mjs';
import { agentLines, clusterForHost, eventually, hostRun, leftovers, podsOf } from '../support/host.js';

const { vitals } = binding;

describe('a soak', () => {
  it('is planned by its seed alone', () => {
    expect(planOf(7, 50)).toEqual(planOf(7, 50));
    expect(planOf(7, 50)).not.toEqual(planOf(8, 50));
    expect(planOf(7, 20), 'a shorter one is its beginning').toEqual(planOf(7, 50).slice(0, 20));
    const kinds = new Set(planOf(1, 2_000).map(({ kind }) => kind));
    expect(kinds.size).toBeGreaterThan(30);
    expect(planOf(1, 2_000).filter(({ storm }) => storm).length).toBeGreaterThan(30);
  });

  // Random seeds are for `npm run soak`, which prints the one it took.
  it.each([['a fixed seed', 4]])(
    'of 100 runs with %s (%d) has no problem and leaves nothing',
    { timeout: 180_000 },
    async (_what, seed) => {
      const { problems, marks } = await soak({ runs: 100, seed, concurrency: 16, measureAfter: [100] });
      expect(problems, `seed ${seed}`).toEqual([]);
      expect(marks.map((mark) => mark.runs)).toEqual([0, 100]);
    },
  );
});

describe('200 runs at the same moment', () => {
  it('all succeed, share two watches and send few requests', { timeout: 180_000 }, async () => {
    const cluster = await clusterForHost();
    try {
      const adapter = createServerAdapter();
      const recorded = readFileSync(
        new URL('../../tools/simulator/fixtures/claude-cli-2.1.197/success.jsonl', import.meta.url),
        'utf8',
      );
      const types = (lines) => lines.map((line) => JSON.parse(line).type);
      const hosts = Array.from({ length: 200 }, () => hostRun(cluster));
      const results = await Promise.all(hosts.map(({ ctx }) => adapter.execute(ctx)));
      expect(results.map(({ errorMessage }) => errorMessage).filter((message) => message !== null)).toEqual(
        [],
      );
      const uuids = new Set();
      for (const host of hosts) {
        const lines = agentLines(host.output);
        expect(types(lines)).toEqual(types(recorded.trim().split('\n')));
        for (const line of lines) {
          const { uuid } = JSON.parse(line);
          if (!uuid) continue;
          expect(uuids, 'no line twice, and none of another run').not.toContain(uuid);
          uuids.add(uuid);
        }
      }
      const { requests } = await cluster.get('/simulator/requests');
      const ours = requests.filter(({ userAgent }) => userAgent?.startsWith('paperclip-adapter-claude-k8s/'));
      // On a busy machine a watch may be opened anew and a run may poll for a while; none does so for itself.
      const watches = ours.filter(({ verb }) => verb === 'watch').map(({ resource }) => resource);
      expect(new Set(watches)).toEqual(new Set(['jobs', 'pods']));
      expect(watches.length).toBeLessThanOrEqual(20);
      const writes = ours.filter(({ verb }) => !['get', 'list', 'watch'].includes(verb));
      expect(writes.length / results.length).toBeLessThanOrEqual(5);
      expect(await leftovers(cluster)).toEqual([]);
      await eventually(async () => (await podsOf(cluster)).length === 0);
      expect(vitals()).toMatchObject({ jobs: 0, queues: 0, subscriptions: 0 });
    } finally {
      await cluster.stop();
    }
  });
});
