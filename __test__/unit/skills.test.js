import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import fc from 'fast-check';
import { beforeEach, describe, expect, it, vi } from 'vitest';

const host = vi.hoisted(() => ({
  readPaperclipRuntimeSkillEntries: vi.fn(),
  resolvePaperclipDesiredSkillNames: vi.fn(),
  readInstalledSkillTargets: vi.fn(),
}));
vi.mock('@paperclipai/adapter-utils/server-utils', () => host);

const { listK8sSkills, syncK8sSkills } = await import('../../js/skills.js');

const ctx = { agentId: 'a', companyId: 'c', adapterType: 'claude_k8s', config: { some: 'config' } };

/**
 * Lets the host report these skills.
 *
 * @param {{available?: object[], desired?: string[], installed?: object}} [skills]
 */
function given({ available = [], desired = [], installed = {} } = {}) {
  host.readPaperclipRuntimeSkillEntries.mockResolvedValue(available);
  host.resolvePaperclipDesiredSkillNames.mockReturnValue(desired);
  host.readInstalledSkillTargets.mockResolvedValue(new Map(Object.entries(installed)));
}

const skill = (key, more = {}) => ({ key, runtimeName: `${key}-rt`, source: `/skills/${key}`, ...more });

beforeEach(() => vi.resetAllMocks());

describe('listK8sSkills', () => {
  it('is empty where there are no skills', async () => {
    given();
    expect(await listK8sSkills(ctx)).toStrictEqual({
      adapterType: 'claude_k8s',
      supported: true,
      mode: 'ephemeral',
      desiredSkills: [],
      entries: [],
      warnings: [],
    });
  });

  it('passes config, package folder and shared home to the host', async () => {
    const available = [skill('x')];
    given({ available });
    await listK8sSkills(ctx);
    expect(host.resolvePaperclipDesiredSkillNames).toHaveBeenCalledWith(ctx.config, available);
    expect(host.readInstalledSkillTargets).toHaveBeenCalledWith('/paperclip/.claude/skills');

    const [config, moduleDir] = host.readPaperclipRuntimeSkillEntries.mock.calls[0];
    expect(config).toBe(ctx.config);
    const packageRoot = fileURLToPath(new URL('../..', import.meta.url));
    expect(existsSync(path.join(packageRoot, 'package.json'))).toBe(true);
    // The host tries two folders from there: one in this package, one beside the folder that holds node_modules.
    expect(path.resolve(moduleDir, '../../skills')).toBe(path.join(packageRoot, 'skills'));
    expect(path.resolve(moduleDir, '../../../../../skills')).toBe(
      path.resolve(packageRoot, '../../../skills'),
    );
  });

  it('lists an available skill that is desired', async () => {
    given({ available: [skill('x')], desired: ['x'] });
    const { entries, desiredSkills, warnings } = await listK8sSkills(ctx);
    expect(desiredSkills).toEqual(['x']);
    expect(warnings).toEqual([]);
    expect(entries).toStrictEqual([
      {
        key: 'x',
        runtimeName: 'x-rt',
        desired: true,
        managed: true,
        state: 'configured',
        origin: 'company_managed',
        originLabel: 'Managed by Paperclip',
        readOnly: false,
        sourcePath: '/skills/x',
        targetPath: null,
        detail: 'Materialized into the PVC-backed Claude prompt bundle before each K8s Job run.',
        required: false,
        requiredReason: null,
      },
    ]);
  });

  it('lists an available skill that is not desired', async () => {
    given({ available: [skill('x')] });
    expect((await listK8sSkills(ctx)).entries).toMatchObject([
      { desired: false, state: 'available', detail: null },
    ]);
  });

  it('lists what an older host requires, and why', async () => {
    given({ available: [skill('x', { required: true, requiredReason: 'core' })], desired: ['x'] });
    expect((await listK8sSkills(ctx)).entries).toMatchObject([
      {
        origin: 'paperclip_required',
        originLabel: 'Required by Paperclip',
        required: true,
        requiredReason: 'core',
        state: 'configured',
      },
    ]);
  });

  it('lists a desired skill that is not available as missing', async () => {
    given({ available: [skill('x')], desired: ['ghost', 'x'] });
    const { entries, warnings } = await listK8sSkills(ctx);
    expect(warnings).toEqual(['Desired skill "ghost" is not available from the Paperclip skills directory.']);
    expect(entries[0]).toEqual({
      key: 'ghost',
      runtimeName: null,
      desired: true,
      managed: true,
      state: 'missing',
      origin: 'external_unknown',
      originLabel: 'External or unavailable',
      readOnly: false,
      sourcePath: undefined,
      targetPath: undefined,
      detail: 'Paperclip cannot find this skill in the runtime skills directory.',
    });
    expect(entries.map(({ key }) => key)).toEqual(['ghost', 'x']);
  });

  it('lists a skill that a user installed as external', async () => {
    given({
      installed: {
        own: { targetPath: '/elsewhere/own', kind: 'symlink' },
        dangling: { targetPath: null, kind: 'symlink' },
      },
    });
    const { entries } = await listK8sSkills(ctx);
    expect(entries[1]).toStrictEqual({
      key: 'own',
      runtimeName: 'own',
      desired: false,
      managed: false,
      state: 'external',
      origin: 'user_installed',
      originLabel: 'User-installed',
      locationLabel: '~/.claude/skills',
      readOnly: true,
      sourcePath: null,
      targetPath: '/elsewhere/own',
      detail: 'Installed outside Paperclip management in the Claude skills home.',
    });
    expect(entries[0].targetPath).toBe('/paperclip/.claude/skills/dangling');
  });

  it('lists an installed skill with an available name once', async () => {
    const target = { targetPath: '/t', kind: 'directory' };
    given({ available: [skill('x')], installed: { 'x-rt': target, x: target } });
    const { entries } = await listK8sSkills(ctx);
    expect(entries.map(({ key, state }) => [key, state])).toEqual([
      ['x', 'available'],
      ['x', 'external'],
    ]);
  });

  it('sorts by bytes, in any locale', async () => {
    const keys = ['b', 'a', 'B', 'ä', '_', '𐀀', '\uFFFD', 'A', 'a/b', 'a-b'];
    given({ available: keys.map((key) => skill(key)) });
    const { entries } = await listK8sSkills(ctx);
    expect(entries.map(({ key }) => key)).toEqual([
      'A',
      'B',
      '_',
      'a',
      'a-b',
      'a/b',
      'b',
      'ä',
      '\uFFFD',
      '𐀀',
    ]);
  });

  it('lists every skill exactly once', async () => {
    const names = fc.uniqueArray(fc.constantFrom('a', 'b', 'c', 'd', 'a-rt', 'b-rt'), { maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(names, names, names, async (available, desired, installed) => {
        given({
          available: available.map((key) => skill(key)),
          desired,
          installed: Object.fromEntries(installed.map((name) => [name, { targetPath: null, kind: 'file' }])),
        });
        const { entries, warnings } = await listK8sSkills(ctx);
        const inState = (...states) =>
          entries.filter(({ state }) => states.includes(state)).map(({ key }) => key);
        const runtimeNames = new Set(available.map((key) => `${key}-rt`));
        const missing = desired.filter((key) => !available.includes(key));
        expect(inState('available', 'configured')).toEqual(available.toSorted());
        expect(inState('missing')).toEqual(missing.toSorted());
        expect(inState('external')).toEqual(installed.filter((name) => !runtimeNames.has(name)).toSorted());
        expect(
          entries
            .filter((entry) => entry.desired)
            .map(({ key }) => key)
            .toSorted(),
        ).toEqual(desired.toSorted());
        expect(warnings).toHaveLength(missing.length);
      }),
    );
  });
});

describe('syncK8sSkills', () => {
  it('resolves with the snapshot and changes nothing', async () => {
    given({
      available: [skill('x')],
      desired: ['x'],
      installed: { own: { targetPath: null, kind: 'file' } },
    });
    expect(await syncK8sSkills(ctx, ['something', 'else'])).toEqual(await listK8sSkills(ctx));
  });
});
