import { constants } from 'node:fs';
import { lstat, open, readdir, readlink, realpath, rmdir, unlink } from 'node:fs/promises';
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
 * @param {string} [home] a folder above the target whose own path no agent can change; without it the target's folder
 * @returns {Promise<void>}
 */
export async function placeSkill(source, target, shared, home = path.dirname(target)) {
  const copy = optionalHostHelper('materializePaperclipSkillCopy');
  const folder = await realOf(source);
  if (shared === undefined && copy === undefined) {
    throw new Error(
      'this host cannot copy skills, and PAPERCLIP_K8S_VOLUME=scoped hides what a link leads to',
    );
  }
  const isLinked = copy === undefined || (shared !== undefined && isInside(folder, await realOf(shared)));
  await inFolder(home, path.dirname(target), async (skills) => {
    const name = path.basename(target);
    const there = path.join(skills, name);
    if (isLinked) {
      if (!(await isLinkTo(there, source))) await remove(skills, name);
      await ensurePaperclipSkillSymlink(source, there);
      const made = await lstat(there).catch(() => undefined);
      if (made && !(await isLinkTo(there, source)))
        throw new Error(`${target} is not the link that was made`);
    } else {
      if (!(await isCopy(folder, there))) await remove(skills, name);
      await copy(folder, there);
      if (!(await isCopy(folder, there))) throw new Error(`${target} is not the copy that was made`);
    }
  });
}

const { O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;

/**
 * Opens a folder or a file, not through a link, and waits for no pipe's writer.
 *
 * @param {string} file
 * @param {number} [flags]
 */
const openThis = (file, flags = 0) => open(file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | flags);

/**
 * The path of an open folder, wherever that is by now: an agent can replace each folder of its path by a link. Systems
 * without such a path have the one by which it was opened.
 *
 * @param {import('node:fs/promises').FileHandle} handle
 * @param {string} opened
 */
const pathOf = (handle, opened) => (process.platform === 'linux' ? `/proc/self/fd/${handle.fd}` : opened);

/**
 * Calls `work` with a path of a folder below `home` that leads there whatever an agent does meanwhile.
 *
 * @param {string} home
 * @param {string} folder
 * @param {(folder: string) => Promise<void>} work
 */
async function inFolder(home, folder, work) {
  const below = path.relative(home, folder);
  if (!isInside(folder, home)) throw new Error(`${folder} is not below ${home}`);
  let handle = await open(home, O_RDONLY | O_DIRECTORY);
  try {
    let at = home;
    for (const name of below.split(path.sep).filter(Boolean)) {
      const next = await openThis(path.join(pathOf(handle, at), name), O_DIRECTORY);
      await handle.close();
      handle = next;
      at = path.join(at, name);
    }
    await work(pathOf(handle, at));
  } finally {
    await handle.close();
  }
}

/** How deep a folder may be that is removed: each level is held open. */
const MOST_LEVELS = 64;

/**
 * Removes what has this name in a folder, with all that is in it. No link is followed.
 *
 * @param {string} folder
 * @param {string} name
 * @param {number} [levels]
 */
async function remove(folder, name, levels = MOST_LEVELS) {
  const file = path.join(folder, name);
  const there = await lstat(file).catch(() => undefined);
  if (!there) return;
  if (!there.isDirectory()) return unlink(file);
  if (levels === 0) throw new Error(`more than ${MOST_LEVELS} levels of folders are in the place of a skill`);
  const handle = await openThis(file, O_DIRECTORY);
  try {
    const inside = pathOf(handle, file);
    for (const child of await readdir(inside)) await remove(inside, child, levels - 1);
  } finally {
    await handle.close();
  }
  await rmdir(file);
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
  return isSameFile(source, target);
}

/** How much of two files is compared at once. */
const PIECE = 64 * 1024;

/**
 * Whether two regular files have the same bytes. Either can have become something else since it was looked at.
 *
 * @param {string} source
 * @param {string} target
 */
async function isSameFile(source, target) {
  const handles = [];
  try {
    for (const file of [source, target]) handles.push(await openThis(file));
    const [left, right] = /** @type {[import('node:fs/promises').FileHandle, typeof handles[0]]} */ (handles);
    const [of, other] = await Promise.all(handles.map((handle) => handle.stat()));
    if (!of?.isFile() || !other?.isFile() || of.size !== other.size) return false;
    const [mine, theirs] = [Buffer.alloc(PIECE), Buffer.alloc(PIECE)];
    for (let at = 0; at < of.size; at += PIECE) {
      const length = Math.min(PIECE, of.size - at);
      const reads = await Promise.all([left.read(mine, 0, length, at), right.read(theirs, 0, length, at)]);
      if (reads.some(({ bytesRead }) => bytesRead !== length)) return false;
      if (mine.compare(theirs, 0, length, 0, length) !== 0) return false;
    }
    return true;
  } finally {
    await Promise.all(handles.map((handle) => handle.close()));
  }
}

/**
 * @param {string} file
 * @param {string} folder
 */
function isInside(file, folder) {
  const way = path.relative(folder, file);
  return way !== '..' && !way.startsWith(`..${path.sep}`) && !path.isAbsolute(way);
}
