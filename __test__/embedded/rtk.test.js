// The two programs that limit tool output, run by Node as the agent's container runs them. They are read from the Jobs
// that runs have created.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createServerAdapter } from '../../index.js';
import { RUN_JOBS, clusterForHost, hostRun } from '../support/host.js';
import { temporaryFolder } from '../support/temporary.js';

const dir = temporaryFolder('rtk');
/** The shell command of a run with this limit. @type {Map<number, string>} */
const commandOf = new Map();
let cluster;

beforeAll(async () => {
  cluster = await clusterForHost();
  const limits = [5, 6, 1000];
  await Promise.all(limits.map(createJob));
  const { items } = await cluster.get(`/apis/batch/v1/namespaces/${cluster.namespace}/jobs?${RUN_JOBS}`);
  for (const limit of limits) {
    const job = items.find(({ metadata }) => metadata.labels[LIMIT] === String(limit));
    commandOf.set(limit, job.spec.template.spec.containers[0].command.at(-1));
  }
});

afterAll(() => cluster?.stop());

const LIMIT = 'rtk-limit';

/** A run whose Job stays and whose pod never starts: no node has the label that it asks for. */
async function createJob(limit) {
  const config = {
    kubeconfig: cluster.kubeconfig,
    enableRtk: true,
    rtkMaxOutputBytes: limit,
    retainJobs: true,
    labels: { [LIMIT]: String(limit) },
    nodeSelector: { absent: 'true' },
  };
  const { errorCode } = await createServerAdapter().execute(hostRun(cluster, { config }).ctx);
  expect(errorCode).toBe('k8s_pod_schedule_failed');
}

/** The two shell commands, and the program that the first one leaves behind. */
function setup(limit) {
  // What the shell runs before it starts the CLI.
  const [, before] = /^if (.*); then$/m.exec(commandOf.get(limit) ?? '') ?? [];
  const commands = (before ?? '').split(' && ');
  const [, payload] = /Buffer\.from\('([A-Za-z0-9+/=]+)','base64'\)/.exec(commands[0]) ?? [];
  return { commands, filter: Buffer.from(payload ?? '', 'base64').toString() };
}

/** What the filter answers to this on stdin. */
function filtered(limit, stdin) {
  const file = path.join(dir, `filter-${limit}.js`);
  writeFileSync(file, setup(limit).filter);
  const { stdout, stderr, status } = spawnSync(process.execPath, [file], { input: stdin });
  expect({ stderr: stderr.toString(), status }).toEqual({ stderr: '', status: 0 });
  return stdout;
}

const event = (limit, object) => JSON.parse(filtered(limit, JSON.stringify(object)).toString());

describe('the filter', () => {
  const cut = (bytes) => `\n[...${bytes} bytes truncated by paperclip-rtk]`;

  it('cuts at the limit, before a character it would split', () => {
    const answer = event(5, { tool_name: 'Bash', tool_response: { content: '€€', other: 1 } });
    expect(answer).toEqual({ tool_name: 'Bash', tool_response: { content: `€${cut(3)}`, other: 1 } });
    expect(event(6, { tool_response: { content: '€€' } }).tool_response.content).toBe('€€');
    expect(event(6, { tool_response: { content: 'x'.repeat(10) } }).tool_response.content).toBe(
      `xxxxxx${cut(4)}`,
    );
  });

  it('cuts every text of an array and keeps the rest', () => {
    const content = [
      { type: 'text', text: '0123456789', cache: true },
      { type: 'image', source: {} },
      'text',
      null,
      7,
    ];
    expect(event(5, { tool_result: { content } }).tool_result.content).toEqual([
      { type: 'text', text: `01234${cut(5)}`, cache: true },
      ...content.slice(1),
    ]);
  });

  it('passes on what is not tool output', () => {
    for (const object of [
      null,
      7,
      [],
      {},
      { tool_response: 'a long enough string' },
      { tool_response: { content: 12 } },
    ]) {
      expect(event(5, object), JSON.stringify(object)).toEqual(object);
    }
  });

  it('passes on what is not JSON, byte for byte', () => {
    for (const bytes of [Buffer.from('not json €\n'), Buffer.from([0xff, 0x00, 0x0a]), Buffer.alloc(0)]) {
      expect(filtered(5, bytes)).toEqual(bytes);
    }
  });
});

describe('the settings program', () => {
  const hook = { matcher: '.*', hooks: [{ type: 'command', command: 'node /tmp/.rtk-filter.js' }] };
  let serial = 0;

  /** Runs the second shell command in a home with these settings; returns the settings afterwards. */
  function settingsAfter(before) {
    const home = path.join(dir, `home-${serial++}`);
    const file = path.join(home, '.claude', 'settings.json');
    if (before !== undefined) {
      mkdirSync(path.dirname(file), { recursive: true });
      writeFileSync(file, before);
    }
    const { PATH } = process.env;
    execFileSync('sh', ['-c', setup(1000).commands[1]], {
      env: { PATH: `${path.dirname(process.execPath)}:${PATH}`, HOME: home },
    });
    return JSON.parse(readFileSync(file, 'utf8'));
  }

  it('creates the file where it is missing or unreadable', () => {
    for (const before of [undefined, '', '{broken', 'null', '[]']) {
      expect(settingsAfter(before), before).toEqual({ hooks: { PostToolUse: [hook] } });
    }
  });

  it('keeps everything else and replaces its own hook', () => {
    const before = {
      model: 'opus',
      permissions: { allow: ['Bash(ls:*)'] },
      hooks: { PreToolUse: [{ matcher: 'Bash', hooks: [] }], PostToolUse: [{ matcher: 'old', hooks: [] }] },
    };
    const after = settingsAfter(JSON.stringify(before));
    expect(after).toEqual({ ...before, hooks: { ...before.hooks, PostToolUse: [hook] } });
  });
});
