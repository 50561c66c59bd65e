import {
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { lstat, readlink } from 'node:fs/promises';
import path from 'node:path';

import * as host from '@paperclipai/adapter-utils/server-utils';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { prepare, renderPrompts } from '../../js/prepare.js';
import { listK8sSkills } from '../../js/skills.js';
import { placeSkill } from '../../js/skill-files.js';
import { temporaryFolder } from '../support/temporary.js';

const OPERATIONAL = 'paperclipai/paperclip/paperclip';
const NEWER = new Set([
  'DEFAULT_PAPERCLIP_AGENT_PROMPT_TEMPLATE',
  'DEFAULT_PAPERCLIP_CONVERSATION_PROMPT_TEMPLATE',
  'isPaperclipRecoveryWakePayload',
  'isPaperclipSkillSourceMissing',
  'materializePaperclipSkillCopy',
  'readPaperclipIssueWorkModeFromContext',
  'renderPaperclipWakePrompt',
  'resolveLegacyPaperclipDesiredSkillNames',
  'selectPaperclipTaskMarkdown',
  'stringifyPaperclipWakePayload',
]);

/** @returns {any} */
function contextOf({ config = {}, context = {} } = {}) {
  const agent = { id: 'agent-1', companyId: 'company-1', name: 'Ann' };
  return { runId: 'run-1', agent, config, context };
}

const skill = (key, more = {}) => ({
  key,
  runtimeName: key.split('/').at(-1),
  source: `/skills/${key}`,
  ...more,
});

describe('for a host that renders prompts', () => {
  const wake = {
    reason: 'issue_assigned',
    issue: { id: 'i-1', identifier: 'PAP-1', title: 'Mend the roof', status: 'todo', workMode: 'planning' },
  };
  const context = { taskId: 'i-1', paperclipWake: wake, paperclipTaskMarkdown: 'The roof leaks.' };

  it('has its sections for a new and for a resumed session', () => {
    const prompts = renderPrompts(contextOf({ context }));
    expect(prompts.taskPrompt).toEqual({
      fresh: host.selectPaperclipTaskMarkdown(context, { resumedSession: false }),
      resumed: host.selectPaperclipTaskMarkdown(context, { resumedSession: true }),
    });
    expect(prompts.taskPrompt?.fresh).toContain('The roof leaks.');
    expect(prompts.wakePrompt?.fresh).toContain('Mend the roof');
    expect(prompts.wakePrompt?.resumed).not.toBe('');
    expect(prompts.wakePrompt?.resumed).not.toBe(prompts.wakePrompt?.fresh);
    expect(prompts.heartbeatPrompt).toContain('agent-1');
    // Not the one sentence that this package has for older hosts.
    expect(prompts.heartbeatPrompt.length).toBeGreaterThan(1000);
  });

  it('has its wake payload and work mode', () => {
    const prompts = renderPrompts(contextOf({ context }));
    expect(prompts.wakePayload).toEqual({ json: host.stringifyPaperclipWakePayload(wake) });
    expect(JSON.parse(prompts.wakePayload?.json ?? '')).toMatchObject({ reason: 'issue_assigned' });
    expect(prompts.issueWorkMode).toBe('planning');
    expect(renderPrompts(contextOf())).toMatchObject({ wakePayload: { json: null }, issueWorkMode: null });
  });

  it('has the template of a conversation in a conversation', () => {
    const prompts = renderPrompts(contextOf({ context: { conversationMode: true } }));
    expect(prompts.heartbeatPrompt).not.toBe(renderPrompts(contextOf()).heartbeatPrompt);
  });

  it('prefers the configured template', () => {
    const config = { promptTemplate: 'Go, {{agent.name}}.', bootstrapPromptTemplate: 'Hello {{agent.id}}' };
    expect(renderPrompts(contextOf({ config, context }))).toMatchObject({
      heartbeatPrompt: 'Go, Ann.',
      bootstrapPrompt: 'Hello agent-1',
    });
  });

  it('has no main section when an agent recovers a run', () => {
    const recovery = { reason: 'source_scoped_recovery_action', issue: { id: 'i-1', title: 'Roof' } };
    const isRecovery = host.isPaperclipRecoveryWakePayload(recovery);
    const { heartbeatPrompt } = renderPrompts(contextOf({ context: { paperclipWake: recovery } }));
    expect(heartbeatPrompt === '').toBe(isRecovery);
    expect(isRecovery).toBe(true);
  });
});

describe('templates', () => {
  it('that are not text are named and replaced by the default', async () => {
    for (const template of [7, ['Work.'], { text: 'Work.' }, true]) {
      const config = { promptTemplate: template, bootstrapPromptTemplate: template };
      const prepared = await prepare(contextOf({ config }));
      expect(prepared.heartbeatPrompt).not.toBe('');
      expect(prepared.warnings).toEqual([
        '[paperclip] Warning: config.promptTemplate ignored: it is not a string',
        '[paperclip] Warning: config.bootstrapPromptTemplate ignored: it is not a string',
      ]);
    }
    const { warnings } = await prepare(contextOf({ config: { promptTemplate: null } }));
    expect(warnings).toEqual([]);
  });
});

describe('skills', () => {
  const skills = [skill(OPERATIONAL), skill('org/chosen'), skill('org/other')];

  it('include the one for work with Paperclip, chosen or not', async () => {
    for (const [chosen, expected] of [
      [[], [OPERATIONAL]],
      [['org/chosen'], [OPERATIONAL, 'org/chosen']],
      [
        ['org/chosen', OPERATIONAL],
        [OPERATIONAL, 'org/chosen'],
      ],
    ]) {
      const config = { paperclipRuntimeSkills: skills, paperclipSkillSync: { desiredSkills: chosen } };
      const prepared = await prepare(contextOf({ config }));
      expect(prepared.skills.map(({ key }) => key)).toEqual(expected);
      const listed = await listK8sSkills({ agentId: 'a', companyId: 'c', adapterType: 'claude_k8s', config });
      expect(listed.desiredSkills.toSorted()).toEqual(/** @type {string[]} */ (expected).toSorted());
      expect(listed.entries.filter(({ desired }) => desired)).toHaveLength(expected.length);
      expect(listed.entries).toContainEqual(
        expect.objectContaining({ key: OPERATIONAL, state: 'configured', desired: true }),
      );
    }
  });

  it('whose files are missing are left out with a warning', async () => {
    const gone = skill('org/gone', { sourceStatus: 'missing', missingDetail: ' snapshot deleted ' });
    const config = {
      paperclipRuntimeSkills: [gone, skill('org/also', { sourceStatus: 'missing' }), skill('org/unwanted')],
      paperclipSkillSync: { desiredSkills: ['org/gone', 'org/also'] },
    };
    const prepared = await prepare(contextOf({ config }));
    expect(prepared.skills).toEqual([]);
    expect(prepared.warnings.toSorted()).toEqual([
      '[paperclip] Warning: the files of skill "org/also" are missing, the agent runs without it',
      '[paperclip] Warning: the files of skill "org/gone" are missing, the agent runs without it: snapshot deleted',
    ]);
    const listed = await listK8sSkills({ agentId: 'a', companyId: 'c', adapterType: 'claude_k8s', config });
    expect(listed.entries).toContainEqual(expect.objectContaining({ key: 'org/gone', state: 'missing' }));
  });

  it('of the whole library are named to the agent', async () => {
    const config = { paperclipRuntimeSkills: skills, paperclipSkillSync: { desiredSkills: ['org/chosen'] } };
    const { skillLibrary } = await prepare(contextOf({ config }));
    for (const { key } of skills) expect(skillLibrary).toContain(key);
    expect((await prepare(contextOf({ config: { paperclipRuntimeSkills: [] } }))).skillLibrary).toBe('');
  });
});

describe('the identity of the MCP servers', () => {
  const identityOf = async (/** @type {unknown} */ mcpServers, rest = {}) =>
    (await prepare(contextOf({ config: { mcpServers }, ...rest }))).mcpServerIdentity;
  const server = { type: 'http', url: 'https://mcp.example', headers: { Authorization: 'one' } };

  it('counts those of the agent, however they are written', async () => {
    const identity = await identityOf({ own: server });
    expect(identity).toMatch(/^[0-9a-f]{64}$/);
    for (const same of [
      { mcpServers: { own: server } },
      JSON.stringify({ own: server }),
      { own: { ...server, headers: { Authorization: 'renewed' } } },
    ])
      expect(await identityOf(same)).toBe(identity);
    for (const other of [{ other: server }, { own: { ...server, url: 'https://b.example' } }])
      expect(await identityOf(other)).not.toBe(identity);
  });

  it.each([[undefined], [{}], [''], ['{'], [[]]])('is empty for %j', async (none) => {
    expect(await identityOf(none)).toBe('');
  });
});

describe('for a host without the newer helpers', () => {
  /** @type {typeof import('../../js/prepare.js')} */
  let old;
  /** @type {typeof import('../../js/skill-files.js')} */
  let oldFiles;
  beforeEach(async () => {
    vi.resetModules();
    const helpers = Object.fromEntries(Object.entries(host).filter(([name]) => !NEWER.has(name)));
    vi.doMock('@paperclipai/adapter-utils/server-utils', () => helpers);
    vi.doMock('@paperclipai/adapter-utils/skill-library-manifest', () => {
      throw new Error('not there');
    });
    old = await import('../../js/prepare.js');
    oldFiles = await import('../../js/skill-files.js');
  });
  afterEach(() => {
    vi.doUnmock('@paperclipai/adapter-utils/server-utils');
    vi.doUnmock('@paperclipai/adapter-utils/skill-library-manifest');
    vi.resetModules();
  });

  it('prompts are those of 0.1.49', async () => {
    const context = { conversationMode: true, paperclipWake: { reason: 'x' }, paperclipTaskMarkdown: 'y' };
    const config = {
      paperclipRuntimeSkills: [skill(OPERATIONAL)],
      paperclipSkillSync: { desiredSkills: [] },
    };
    expect(await old.prepare(contextOf({ config, context }))).toEqual({
      baseEnv: expect.any(Object),
      bootstrapPrompt: '',
      heartbeatPrompt: 'You are agent agent-1 (Ann). Continue your Paperclip work.',
      taskPrompt: null,
      wakePrompt: null,
      wakePayload: null,
      issueWorkMode: null,
      skills: [],
      warnings: [],
      skillLibrary: '',
      mcpServerIdentity: '',
    });
  });

  it('skills_of_a_scoped_volume_are_an_error', async () => {
    const target = path.join(temporaryFolder('bundle'), 'demo');
    await expect(oldFiles.placeSkill(temporaryFolder('skill'), target, undefined)).rejects.toThrow(
      /cannot copy skills/,
    );
  });

  it('skills are linked, wherever they are', async () => {
    const folder = temporaryFolder('skill');
    const target = path.join(temporaryFolder('bundle'), 'demo');
    await oldFiles.placeSkill(folder, target, '/somewhere/else');
    expect(await readlink(target)).toBe(folder);
  });
});

describe('the files of a skill', () => {
  function given() {
    const shared = temporaryFolder('shared');
    const outside = temporaryFolder('outside');
    const bundle = path.join(shared, 'bundle');
    mkdirSync(bundle);
    for (const folder of [shared, outside]) {
      mkdirSync(path.join(folder, 'demo', 'scripts'), { recursive: true });
      writeFileSync(path.join(folder, 'demo', 'SKILL.md'), '# Demo\n');
      writeFileSync(path.join(folder, 'demo', 'scripts', 'a.sh'), 'echo a\n', { mode: 0o755 });
    }
    return { shared, outside, target: path.join(bundle, 'demo') };
  }

  it('are linked where pods share the volume', async () => {
    const { shared, target } = given();
    const source = path.join(shared, 'demo');
    await placeSkill(source, target, shared);
    await placeSkill(source, target, `${shared}/`);
    expect(await readlink(target)).toBe(source);
  });

  it('are copied from the disk of the host, also over an old link', async () => {
    const { shared, outside, target } = given();
    const source = path.join(outside, 'demo');
    symlinkSync(source, target);
    for (let time = 0; time < 2; time += 1) {
      await placeSkill(source, target, shared);
      expect((await lstat(target)).isDirectory()).toBe(true);
      expect(readFileSync(path.join(target, 'SKILL.md'), 'utf8')).toBe('# Demo\n');
      expect((await lstat(path.join(target, 'scripts', 'a.sh'))).mode & 0o777).toBe(0o755);
    }
  });

  it('behind a link on the volume are copied from where they are', async () => {
    const { shared, outside, target } = given();
    const source = path.join(shared, 'link');
    symlinkSync(path.join(outside, 'demo'), source);
    await placeSkill(source, target, shared);
    expect(realpathSync(target)).toBe(realpathSync(path.dirname(target)) + '/demo');
    expect(readFileSync(path.join(target, 'SKILL.md'), 'utf8')).toBe('# Demo\n');
  });

  it('planted_link_is_replaced_by_the_right_one', async () => {
    const { shared, outside, target } = given();
    const source = path.join(shared, 'demo');
    symlinkSync(path.join(outside, 'demo'), target);
    await placeSkill(source, target, shared);
    expect(await readlink(target)).toBe(source);
  });

  it('planted_folder_in_place_of_a_link_is_replaced', async () => {
    const { shared, target } = given();
    mkdirSync(target);
    writeFileSync(path.join(target, 'SKILL.md'), '# Do evil\n');
    const source = path.join(shared, 'demo');
    await placeSkill(source, target, shared);
    expect(await readlink(target)).toBe(source);
  });

  it('planted_file_in_a_copy_is_not_trusted', async () => {
    const { shared, outside, target } = given();
    const source = path.join(outside, 'demo');
    const skillFile = path.join(target, 'SKILL.md');
    for (const plant of [
      () => writeFileSync(skillFile, '# Evil\n'),
      () => writeFileSync(path.join(target, 'more.md'), '# Do evil\n'),
      () => {
        unlinkSync(skillFile);
        symlinkSync(path.join(shared, 'demo', 'SKILL.md'), skillFile);
      },
    ]) {
      await placeSkill(source, target, shared);
      plant();
      await placeSkill(source, target, shared);
      expect((await lstat(skillFile)).isFile()).toBe(true);
      expect(readFileSync(skillFile, 'utf8')).toBe('# Demo\n');
      expect(readdirSync(target).filter((name) => !name.startsWith('.'))).toEqual(['SKILL.md', 'scripts']);
    }
    // The folder that the planted link led to was not written to.
    expect(readFileSync(path.join(shared, 'demo', 'SKILL.md'), 'utf8')).toBe('# Demo\n');
  });

  it('are_copied_where_pods_see_the_bundle_only', async () => {
    const { shared, target } = given();
    await placeSkill(path.join(shared, 'demo'), target, undefined);
    expect((await lstat(target)).isDirectory()).toBe(true);
    expect(readFileSync(path.join(target, 'SKILL.md'), 'utf8')).toBe('# Demo\n');
  });

  it('link_above_the_bundle_is_not_followed', async () => {
    const { shared, outside, target } = given();
    const elsewhere = temporaryFolder('elsewhere');
    symlinkSync(elsewhere, path.join(shared, 'linked'));
    for (const folder of ['demo', path.join('..', path.basename(outside), 'demo')]) {
      const planted = path.join(shared, 'linked', 'demo');
      const placed = placeSkill(path.join(shared, folder), planted, shared, shared);
      await expect(placed).rejects.toThrow(/ENOTDIR|ELOOP/);
    }
    await expect(placeSkill(path.join(shared, 'demo'), target, shared, elsewhere)).rejects.toThrow(
      /is not below/,
    );
    expect(readdirSync(elsewhere)).toEqual([]);
  });

  it('link_in_a_planted_folder_is_removed_and_not_followed', async () => {
    const { shared, outside, target } = given();
    mkdirSync(path.join(target, 'deep'), { recursive: true });
    symlinkSync(path.join(outside, 'demo'), path.join(target, 'deep', 'link'));
    await placeSkill(path.join(shared, 'demo'), target, shared);
    expect(readdirSync(path.join(outside, 'demo')).toSorted()).toEqual(['SKILL.md', 'scripts']);
    expect(await readlink(target)).toBe(path.join(shared, 'demo'));
  });

  it('planted_folder_of_many_levels_is_an_error', async () => {
    const { shared, target } = given();
    mkdirSync(path.join(target, ...Array.from({ length: 70 }, () => 'd')), { recursive: true });
    await expect(placeSkill(path.join(shared, 'demo'), target, shared)).rejects.toThrow(
      /more than 64 levels/,
    );
  });

  it.runIf(process.platform === 'linux')('bundle_that_becomes_a_link_meanwhile_is_not_followed', async () => {
    const { shared, outside, target } = given();
    const elsewhere = temporaryFolder('elsewhere');
    /** @param {string} helper */
    const swapping =
      (helper) =>
      async (/** @type {unknown[]} */ ...files) => {
        renameSync(path.dirname(target), path.join(shared, 'moved'));
        symlinkSync(elsewhere, path.dirname(target));
        return /** @type {any} */ (host)[helper](...files);
      };
    const helpers = ['ensurePaperclipSkillSymlink', 'materializePaperclipSkillCopy'];
    vi.resetModules();
    vi.doMock('@paperclipai/adapter-utils/server-utils', () => ({
      ...host,
      ...Object.fromEntries(helpers.map((helper) => [helper, swapping(helper)])),
    }));
    try {
      const { placeSkill: place } = await import('../../js/skill-files.js');
      for (const source of [path.join(shared, 'demo'), path.join(outside, 'demo')]) {
        await place(source, target, shared, shared);
        expect(readFileSync(path.join(shared, 'moved', 'demo', 'SKILL.md'), 'utf8')).toBe('# Demo\n');
        expect(readdirSync(elsewhere)).toEqual([]);
        unlinkSync(path.dirname(target));
        rmSync(path.join(shared, 'moved'), { recursive: true });
        mkdirSync(path.dirname(target));
      }
    } finally {
      vi.doUnmock('@paperclipai/adapter-utils/server-utils');
      vi.resetModules();
    }
  });

  it('that are not there are an error', async () => {
    const { shared, target } = given();
    await expect(placeSkill('/no/such/skill', target, shared)).rejects.toThrow(/ENOENT/);
  });
});
