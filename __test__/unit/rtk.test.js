// The two programs that limit tool output, run by Node as the agent's container runs them.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { binding } from '../../js/binding.js';

let dir;

beforeAll(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'rtk-'));
});

afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** The two shell commands, and the program that the first one leaves behind. */
function setup(limit) {
  const commands = binding.buildRtkSetupCommands(limit).split(' && ');
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

  it('cuts at the limit, before a character that would be split', () => {
    const answer = event(5, { tool_name: 'Bash', tool_response: { content: '€€', other: 1 } });
    expect(answer).toEqual({ tool_name: 'Bash', tool_response: { content: `€${cut(3)}`, other: 1 } });
    expect(event(6, { tool_response: { content: '€€' } }).tool_response.content).toBe('€€');
    expect(event(6, { tool_response: { content: 'x'.repeat(10) } }).tool_response.content).toBe(
      `xxxxxx${cut(4)}`,
    );
  });

  it('cuts every text of an array and leaves what else is in it', () => {
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

  it('passes on what is no tool output', () => {
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

  it('passes on what is no JSON, byte for byte', () => {
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

  it('makes the file where there is none, or none that can be read', () => {
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
