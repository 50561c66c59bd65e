// Only these three helpers may be imported here by name: all exist in every host version, and a test of 0.1.49 mocks the
// module with only these three.
import {
  readInstalledSkillTargets,
  readPaperclipRuntimeSkillEntries,
  resolvePaperclipDesiredSkillNames,
} from '@paperclipai/adapter-utils/server-utils';

import { type as adapterType } from './identity.js';
import { moduleDir } from './module-dir.js';
import { optionalHostHelper } from './optional-helper.js';

/**
 * @typedef {import('@paperclipai/adapter-utils').AdapterSkillContext} AdapterSkillContext
 * @typedef {import('../index.js').ClaudeK8sSkillEntry} SkillEntry
 * @typedef {import('../index.js').ClaudeK8sSkillSnapshot} SkillSnapshot
 */

/**
 * A skill the host can provide. `required` and `requiredReason` come from older hosts only.
 *
 * @typedef {{
 *   key: string,
 *   runtimeName: string,
 *   source: string,
 *   required?: boolean,
 *   requiredReason?: string | null,
 * }} AvailableSkill
 */

const CONFIGURED = 'Materialized into the PVC-backed Claude prompt bundle before each K8s Job run.';
const MISSING = 'Paperclip cannot find this skill in the runtime skills directory.';
const EXTERNAL = 'Installed outside Paperclip management in the Claude skills home.';
const EXTERNAL_PLACE = '~/.claude/skills';

/** Where Claude Code finds its skills inside a Job pod, and on the volume that the host shares with it. */
const INSTALLED_SKILLS_DIR = '/paperclip/.claude/skills';

/**
 * @param {AvailableSkill} skill
 * @param {boolean} desired
 * @returns {SkillEntry}
 */
function availableEntry(skill, desired) {
  const required = Boolean(skill.required);
  return {
    key: skill.key,
    runtimeName: skill.runtimeName,
    desired,
    managed: true,
    state: desired ? 'configured' : 'available',
    // Only hosts that still call skills required know the first origin, so newer types lack it.
    origin: /** @type {SkillEntry['origin']} */ (required ? 'paperclip_required' : 'company_managed'),
    originLabel: required ? 'Required by Paperclip' : 'Managed by Paperclip',
    readOnly: false,
    sourcePath: skill.source,
    targetPath: null,
    detail: desired ? CONFIGURED : null,
    required,
    requiredReason: skill.requiredReason ?? null,
  };
}

/**
 * @param {string} name
 * @returns {SkillEntry}
 */
function missingEntry(name) {
  return {
    key: name,
    runtimeName: null,
    desired: true,
    managed: true,
    state: 'missing',
    origin: 'external_unknown',
    originLabel: 'External or unavailable',
    readOnly: false,
    sourcePath: undefined,
    targetPath: undefined,
    detail: MISSING,
  };
}

/**
 * @param {string} name
 * @param {string | null | undefined} targetPath
 * @returns {SkillEntry}
 */
function externalEntry(name, targetPath) {
  return {
    key: name,
    runtimeName: name,
    desired: false,
    managed: false,
    state: 'external',
    origin: 'user_installed',
    originLabel: 'User-installed',
    locationLabel: EXTERNAL_PLACE,
    readOnly: true,
    sourcePath: null,
    targetPath: targetPath ?? `${INSTALLED_SKILLS_DIR}/${name}`,
    detail: EXTERNAL,
  };
}

/**
 * UTF-8 byte order: the same on every host, whatever its locale.
 *
 * @param {SkillEntry} a
 * @param {SkillEntry} b
 */
function byKey(a, b) {
  return Buffer.compare(Buffer.from(a.key), Buffer.from(b.key));
}

/**
 * The skills an agent has, wants and could have: as the host itself describes them, where it does.
 *
 * @param {AdapterSkillContext} ctx
 * @returns {Promise<SkillSnapshot>}
 */
export async function listK8sSkills(ctx) {
  const available = await readPaperclipRuntimeSkillEntries(ctx.config, moduleDir);
  const resolve = optionalHostHelper('resolveLegacyPaperclipDesiredSkillNames');
  const desiredSkills = (resolve ?? resolvePaperclipDesiredSkillNames)(ctx.config, available);
  const installed = await readInstalledSkillTargets(INSTALLED_SKILLS_DIR);
  const snapshot = optionalHostHelper('buildRuntimeMountedSkillSnapshot')?.({
    adapterType,
    availableEntries: available,
    desiredSkills,
    configuredDetail: CONFIGURED,
    missingDetail: MISSING,
    externalInstalled: installed,
    externalLocationLabel: EXTERNAL_PLACE,
    externalDetail: EXTERNAL,
    skillsHome: INSTALLED_SKILLS_DIR,
  });
  return (
    /** @type {SkillSnapshot | undefined} */ (snapshot) ?? snapshotOf(available, desiredSkills, installed)
  );
}

/**
 * The snapshot for a host that does not make one itself.
 *
 * @param {AvailableSkill[]} available
 * @param {string[]} desiredSkills
 * @param {Map<string, {targetPath: string | null}>} installed
 * @returns {SkillSnapshot}
 */
function snapshotOf(available, desiredSkills, installed) {
  const desired = new Set(desiredSkills);
  const availableKeys = new Set(available.map((skill) => skill.key));
  const runtimeNames = new Set(available.map((skill) => skill.runtimeName));
  const unknown = desiredSkills.filter((name) => !availableKeys.has(name));
  const external = [...installed].filter(([name]) => !runtimeNames.has(name));

  return {
    adapterType,
    supported: true,
    mode: 'ephemeral',
    desiredSkills,
    entries: [
      ...available.map((skill) => availableEntry(skill, desired.has(skill.key))),
      ...unknown.map(missingEntry),
      ...external.map(([name, target]) => externalEntry(name, target.targetPath)),
    ].toSorted(byKey),
    warnings: unknown.map(
      (name) => `Desired skill "${name}" is not available from the Paperclip skills directory.`,
    ),
  };
}

/**
 * Returns the current snapshot: nothing is installed between runs, each run lays out its own bundle.
 *
 * @param {AdapterSkillContext} ctx
 * @param {string[]} _desiredSkills
 */
export async function syncK8sSkills(ctx, _desiredSkills) {
  return listK8sSkills(ctx);
}
