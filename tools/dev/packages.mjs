// npm run packages: the tarballs of a release, in `target/packages`: one of this package without an addon, and one for each
// platform whose addon is at hand. The release workflow publishes these files, and a test installs them.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { PLATFORMS } from '../../js/addon.js';
import { linkedCrates, notice } from './crates.mjs';
import { copyToVersion } from './prepack.mjs';
import { Problem, installDependencies, program, root, run, step } from './lib.mjs';

const USAGE = `npm run packages -- [--addons DIR] [--all]
  --addons DIR  where the addons are (default: js/generated, where a build leaves this machine's)
  --all         fail unless there is one for each platform`;

const OPTIONS = /** @type {const} */ ({ addons: { type: 'string' }, all: { type: 'boolean' } });

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  await program(USAGE, { options: OPTIONS }, async ({ values }) => {
    const { tarballs, missing } = await makePackages({ addons: values.addons });
    if (values.all && missing.length > 0) throw new Problem(`no addon for ${missing.join(', ')}`);
    for (const tarball of tarballs) console.log(tarball);
  });
}

/**
 * Makes the tarballs.
 *
 * @param {{addons?: string, out?: string, version?: string,
 *   edit?: (folder: string) => void}} [options] `addons`: a folder of `{name}.{platform}.node`; `out`
 *   is emptied first; for tests of updates `version`, another than package.json's, and
 *   `edit`, which may change the unpacked package
 * @returns {Promise<{tarballs: string[], missing: string[], name: string, version: string}>} paths, that of this package
 *   last, and platforms
 */
export async function makePackages({
  addons = path.join(root, 'js', 'generated'),
  out = path.join(root, 'target', 'packages'),
  version,
  edit = () => {},
} = {}) {
  await installDependencies();
  const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'));
  manifest.version = version ?? manifest.version;
  /** @param {string} platform */
  const addonOf = (platform) => path.join(path.resolve(addons), `${manifest.name}.${platform}.node`);
  const [found, missing] = [true, false].map((wanted) =>
    PLATFORMS.filter((platform) => existsSync(addonOf(platform)) === wanted),
  );
  if (found.length === 0) throw new Problem(`${addons}: there is no addon; \`npm run build\` makes one`);
  rmSync(out, { recursive: true, force: true });
  const main = path.join(out, manifest.name);
  for (const file of publishedFiles()) cpSync(path.join(root, file), path.join(main, file));
  // napi writes the platforms' package.json below the folder of this one.
  writeFileSync(path.join(main, 'package.json'), JSON.stringify(manifest));
  copyToVersion(main);
  await run(path.join(root, 'node_modules', '.bin', 'napi'), ['create-npm-dirs'], {
    cwd: main,
    stdio: 'ignore',
  });
  // The licences ask for it where the addon goes.
  const texts = { NOTICE: notice(linkedCrates()), LICENSE: readFileSync(path.join(root, 'LICENSE'), 'utf8') };
  /** @type {string[]} */
  const tarballs = [];
  for (const platform of found) {
    step(`Packing the addon for ${platform}`);
    const folder = path.join(main, 'npm', platform);
    const addon = `${manifest.name}-${manifest.version}.${platform}.node`;
    cpSync(addonOf(platform), path.join(folder, addon));
    for (const [name, text] of Object.entries(texts)) writeFileSync(path.join(folder, name), text);
    const file = path.join(folder, 'package.json');
    const ofPlatform = JSON.parse(readFileSync(file, 'utf8'));
    const files = [addon, ...Object.keys(texts)];
    writeFileSync(file, JSON.stringify({ ...ofPlatform, main: addon, files }, undefined, 2));
    tarballs.push(pack(folder, out));
  }
  rmSync(path.join(main, 'npm'), { recursive: true });
  const { scripts: _scripts, devDependencies: _tools, napi: _build, ...published } = manifest;
  published.optionalDependencies = Object.fromEntries(
    found.map((platform) => [`${manifest.name}-${platform}`, manifest.version]),
  );
  writeFileSync(path.join(main, 'package.json'), `${JSON.stringify(published, undefined, 2)}\n`);
  edit(main);
  tarballs.push(pack(main, out));
  return { tarballs, missing, name: manifest.name, version: manifest.version };
}

/** What npm would publish of this checkout, without addons. */
function publishedFiles() {
  const { stdout } = npm(['pack', '--dry-run', '--json', '--ignore-scripts'], root);
  const report = JSON.parse(stdout);
  const [tarball] = Array.isArray(report) ? report : Object.values(report);
  return tarball.files.map((file) => file.path).filter((name) => !name.endsWith('.node'));
}

/** Packs a folder; returns the tarball's path. */
function pack(folder, out) {
  const before = new Set(readdirSync(out));
  npm(['pack', '--ignore-scripts', '--pack-destination', out], folder);
  const made = readdirSync(out).find((name) => name.endsWith('.tgz') && !before.has(name));
  if (!made) throw new Problem(`npm pack left no tarball of ${folder}`);
  return path.join(out, made);
}

function npm(args, cwd) {
  const result = spawnSync('npm', args, { cwd, encoding: 'utf8' });
  if (result.status !== 0) throw new Problem(`npm ${args.join(' ')} failed in ${cwd}:\n${result.stderr}`);
  return result;
}
