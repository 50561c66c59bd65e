import { lstat, readdir, readFile, readlink, realpath, rm } from 'node:fs/promises';
import path from 'node:path';

import { ensurePaperclipSkillSymlink, optionalHostHelper } from './host-utils.js';

/**
 * Puts a skill into a prompt bundle, with the host's own helpers: as a link where its folder is on the volume that pods
 * share with the host, else as a copy, because a link to the host's own disk leads nowhere in a pod. Hosts that cannot copy
 * link. What stands at the target already is kept only where it is that link or a true copy: an agent can write there.
 *
 * @param {string} source the skill's folder
 * @param {string} target its path in the bundle
 * @param {string | undefined} shared the folder of the host's that pods see, too; undefined where they see the bundle only
 * @returns {Promise<void>}
 */
export async function placeSkill(source, target, shared) {
  const copy = optionalHostHelper('materializePaperclipSkillCopy');
  const folder = await realOf(source);
  if (shared === undefined && copy === undefined) {
    throw new Error(
      'this host cannot copy skills, and PAPERCLIP_K8S_VOLUME=scoped hides what a link leads to',
    );
  }
  if (copy === undefined || (shared !== undefined && isInside(folder, await realOf(shared)))) {
    if (!(await isLinkTo(target, source))) await rm(target, { recursive: true, force: true });
    await ensurePaperclipSkillSymlink(source, target);
    const made = await lstat(target).catch(() => undefined);
    if (made && !(await isLinkTo(target, source))) throw new Error(`${target} is not the link that was made`);
  } else {
    if (!(await isCopy(folder, target))) await rm(target, { recursive: true, force: true });
    await copy(folder, target);
    if (!(await isCopy(folder, target))) throw new Error(`${target} is not the copy that was made`);
  }
}

/** @param {string} file */
const realOf = (file) => realpath(file).catch(() => file);

/**
 * @param {string} file
 * @param {string} source
 */
async function isLinkTo(file, source) {
  const leadsTo = await readlink(file).catch(() => undefined);
  return leadsTo !== undefined && path.resolve(path.dirname(file), leadsTo) === path.resolve(source);
}

/** What the host writes beside the files of a copy. */
const SENTINEL = /^\.paperclip-/;

/**
 * Whether a folder has the files of another and no others. Links are not copied, so there are none in a copy.
 *
 * @param {string} source
 * @param {string} target
 * @returns {Promise<boolean>}
 */
async function isCopy(source, target) {
  const [from, to] = await Promise.all([source, target].map((file) => lstat(file).catch(() => undefined)));
  if (from?.isDirectory() && to?.isDirectory()) {
    const names = async (/** @type {string} */ folder) => {
      const entries = await readdir(folder, { withFileTypes: true });
      return entries.filter(({ name }) => !SENTINEL.test(name));
    };
    const wanted = (await names(source)).filter((entry) => entry.isFile() || entry.isDirectory());
    if (wanted.length !== (await names(target)).length) return false;
    for (const { name } of wanted) {
      if (!(await isCopy(path.join(source, name), path.join(target, name)))) return false;
    }
    return true;
  }
  if (!from?.isFile() || !to?.isFile() || from.size !== to.size) return false;
  const [left, right] = await Promise.all([readFile(source), readFile(target)]);
  return left.equals(right);
}

/**
 * @param {string} file
 * @param {string} folder
 */
function isInside(file, folder) {
  const way = path.relative(folder, file);
  return way !== '..' && !way.startsWith(`..${path.sep}`) && !path.isAbsolute(way);
}
