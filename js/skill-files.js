import { realpath } from 'node:fs/promises';
import path from 'node:path';

import { ensurePaperclipSkillSymlink, optionalHostHelper } from './host-utils.js';

/**
 * Puts a skill into a prompt bundle, with the host's own helpers: as a link where its folder is on the volume that pods
 * share with the host, else as a copy, because a link to the host's own disk leads nowhere in a pod. Hosts that cannot copy
 * link.
 *
 * @param {string} source the skill's folder
 * @param {string} target its path in the bundle
 * @param {string} shared the folder of the host's that pods see, too
 * @returns {Promise<void>}
 */
export async function placeSkill(source, target, shared) {
  const copy = optionalHostHelper('materializePaperclipSkillCopy');
  const [folder, root] = await Promise.all([source, shared].map((name) => realpath(name).catch(() => name)));
  if (copy === undefined || isInside(/** @type {string} */ (folder), /** @type {string} */ (root)))
    await ensurePaperclipSkillSymlink(source, target);
  else await copy(/** @type {string} */ (folder), target);
}

/**
 * @param {string} file
 * @param {string} folder
 */
function isInside(file, folder) {
  const way = path.relative(folder, file);
  return way !== '..' && !way.startsWith(`..${path.sep}`) && !path.isAbsolute(way);
}
