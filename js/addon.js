// Finds the native half: in this package (a checkout, or a tarball that was packed with it), else in the package for this
// platform, which npm installs as an optional dependency.
//
// A host that updates this package in place goes on as the same process, and Node and the system's loader remember by its
// path what they have read or loaded. So the platform's package is read afresh, the addon in it has the version in its
// name, and the path of one in this package begins with the folder of this module, which `npm pack` names by the version.
import { closeSync, existsSync, openSync, readFileSync, readSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const NAME = 'paperclip-adapter-claude-k8s';

/** The platforms that have a package `paperclip-adapter-claude-k8s-{platform}`. No other name is ever asked for. */
export const PLATFORMS = [
  'linux-x64-gnu',
  'linux-arm64-gnu',
  'linux-x64-musl',
  'linux-arm64-musl',
  'darwin-x64',
  'darwin-arm64',
];

/**
 * @typedef {object} Places where an addon is looked for; tests have their own
 * @property {string} [platform] of `PLATFORMS`
 * @property {string} [folder] of addons that were built here
 * @property {NodeJS.Require} [require] knows where packages of platforms may be
 * @property {string} [version] of this package, and so of the platform's
 * @property {(file: string) => unknown} [open] loads an addon
 */

/**
 * Loads the addon.
 *
 * @param {Places} [places]
 * @returns {any} its exports
 * @throws {Error} one line that names the package that is missing, or of another version, or that cannot be loaded here,
 *   and what to do
 */
export function loadAddon({
  platform = currentPlatform(),
  folder = `${fileURLToPath(new URL('.', import.meta.url))}../js/generated/`,
  require = createRequire(import.meta.url),
  version = versionOfThis(),
  open = dlopen,
} = {}) {
  if (!PLATFORMS.includes(platform)) {
    throw new Error(
      `${NAME} has no addon for ${platform}, only for ${PLATFORMS.join(', ')}. Where Rust is installed, \`npm run build\` in a checkout makes one.`,
    );
  }
  const local = `${folder}${NAME}.${platform}.node`;
  if (existsSync(local)) return attempt(open, local, local);
  const name = `${NAME}-${platform}`;
  const installed = installedPackage(require, name);
  if (installed === undefined) {
    throw new Error(
      `${name} ${version} is not installed, and ${NAME} cannot run without it. npm leaves it out with --omit=optional, and npm before 11.3 with a lock file of another platform: remove node_modules and package-lock.json, then install again.`,
    );
  }
  if (installed.version !== version) {
    throw new Error(
      `${name} is ${installed.version}, but ${NAME} is ${version}: install both of one version.`,
    );
  }
  return attempt(open, installed.file, `${name} ${version}`);
}

/** @param {(file: string) => unknown} open @param {string} file @param {string} what names it in an error */
function attempt(open, file, what) {
  try {
    return open(file);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.split('\n', 1)[0] : String(cause);
    throw new Error(`${what} cannot be loaded in Node ${process.versions.node}: ${reason}`, { cause });
  }
}

/** Loads an addon as `require` does, but under this very path, which `require` would shorten. @param {string} file */
function dlopen(file) {
  const module = { exports: {} };
  process.dlopen(module, file);
  return module.exports;
}

/**
 * @param {NodeJS.Require} require
 * @param {string} name of a package
 * @returns {{ version: string; file: string } | undefined} what it is and its main file; undefined if it is not installed
 */
function installedPackage(require, name) {
  for (const folder of require.resolve.paths(name) ?? []) {
    const manifest = path.join(folder, name, 'package.json');
    if (!existsSync(manifest)) continue;
    const { version, main } = JSON.parse(readFileSync(manifest, 'utf8'));
    return { version, file: path.join(folder, name, main) };
  }
  return undefined;
}

/** @returns {string} */
function versionOfThis() {
  return JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')).version;
}

/** What this process runs on, as in `PLATFORMS`; for others `{system}-{processor}`. */
export function currentPlatform() {
  const { platform, arch, execPath } = process;
  return platform === 'linux' ? `linux-${arch}-${libcOf(execPath)}` : `${platform}-${arch}`;
}

/**
 * The C library that a Linux program uses, from the name of the loader that the program itself asks for. `process.report`
 * would say it too, and can block for minutes on name lookups (nodejs/node#46060).
 *
 * @param {string} program a path
 * @returns {'gnu' | 'musl'} `gnu` also where the file says nothing
 */
export function libcOf(program) {
  try {
    return loaderOf(program).includes('ld-musl-') ? 'musl' : 'gnu';
  } catch {
    return 'gnu';
  }
}

/**
 * @param {string} program a 64-bit little-endian ELF file; see elf(5) for the offsets
 * @returns {string} the path of its dynamic loader, empty if it has none
 */
function loaderOf(program) {
  const file = openSync(program, 'r');
  /** @param {number} size @param {number} position */
  const read = (size, position) => {
    const buffer = Buffer.alloc(size);
    return buffer.subarray(0, readSync(file, buffer, 0, size, position));
  };
  try {
    const header = read(64, 0);
    const [table, entrySize, entries] = [
      header.readBigUInt64LE(32),
      header.readUInt16LE(54),
      header.readUInt16LE(56),
    ];
    for (let index = 0; index < entries; index += 1) {
      const segment = read(entrySize, Number(table) + index * entrySize);
      const PT_INTERP = 3;
      if (segment.readUInt32LE(0) !== PT_INTERP) continue;
      return read(Number(segment.readBigUInt64LE(32)), Number(segment.readBigUInt64LE(8))).toString('latin1');
    }
    return '';
  } finally {
    closeSync(file);
  }
}
