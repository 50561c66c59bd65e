// The cache, outside the checkout, of what takes long to download or build; each step is done once.
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';

/** Changes whenever the layout of the cache or a build's flags change; versions of what is built are in the names. */
const VERSION = 'build-2';

/** `$XDG_CACHE_HOME/paperclip-adapter-claude-k8s`; holds builds (`VERSION/`) and the clusters that run (`run/`). */
export const home = path.join(
  process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'),
  'paperclip-adapter-claude-k8s',
);

/** The builds of this version. */
export const cache = path.join(home, VERSION);

/**
 * Makes `name` below the cache unless it exists. `make` fills a temporary folder, which is renamed once it is complete:
 * an interrupted step is done again, and its half is never used.
 *
 * @param {string} name
 * @param {(dir: string) => Promise<void>} make
 * @returns {Promise<string>} the folder
 */
export async function once(name, make) {
  const final = path.join(cache, name);
  if (existsSync(final)) return final;
  const work = `${final}.part-${process.pid}`;
  mkdirSync(path.dirname(final), { recursive: true });
  for (const other of readdirSync(path.dirname(final))) {
    const [, pid] = other.startsWith(`${path.basename(final)}.part-`) ? other.split('.part-') : [];
    // Left by an interrupted step.
    if (pid && (Number(pid) === process.pid || !existsSync(`/proc/${pid}`))) {
      rmSync(path.join(path.dirname(final), other), { recursive: true, force: true });
    }
  }
  mkdirSync(work, { recursive: true });
  try {
    await make(work);
    renameSync(work, final);
  } catch (error) {
    rmSync(work, { recursive: true, force: true });
    // Another process was faster; its result is as good.
    if (!existsSync(final)) throw error;
  }
  return final;
}
