// The steps of the release workflow that are more than one command.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { PLATFORMS } from '../../js/addon.js';
import { billOfMaterials, linkedCrates, notice } from './crates.mjs';
import { Problem, program, root, run, step } from './lib.mjs';

const USAGE = `node tools/dev/release.mjs COMMAND
  notes TAG               prints the CHANGELOG's section of a version; fails unless tag and package.json agree
  addon PLATFORM TARGET   builds the addon of a platform into target/addons; TARGET is a Rust target, for glibc with the
                          oldest version that it must run on (x86_64-unknown-linux-gnu.2.17)
  papers                  writes checksums, bill of materials and NOTICE beside the tarballs of target/packages
  publish [--dry-run]     publishes these tarballs, platforms first; what the registry has already is skipped`;

const NAME = 'paperclip-adapter-claude-k8s';
const PACKAGES = path.join(root, 'target', 'packages');
const read = (file) => readFileSync(path.join(root, file), 'utf8');

const COMMANDS = { notes, addon, papers, publish };

await program(
  USAGE,
  { options: { 'dry-run': { type: 'boolean' } }, allowPositionals: true },
  async ({ values, positionals: [command = '', ...rest] }) => {
    if (!Object.hasOwn(COMMANDS, command)) throw new Problem(USAGE);
    await COMMANDS[command](...rest, values);
  },
);

/** @param {string} tag */
function notes(tag) {
  const { version } = JSON.parse(read('package.json'));
  if (tag !== `v${version}`) throw new Problem(`the tag is ${tag}, but package.json has ${version}`);
  const sections = read('CHANGELOG.md').split(/^## /m);
  const section = sections.find((each) => each.startsWith(`${version}\n`) || each.startsWith(`${version} `));
  const text = section?.slice(section.indexOf('\n')).trim();
  if (!text) throw new Problem(`CHANGELOG.md has no section "## ${version}"`);
  console.log(text);
}

/** @param {string} platform @param {string} target */
async function addon(platform, target) {
  if (!PLATFORMS.includes(platform)) throw new Problem(`${platform} is none of ${PLATFORMS.join(', ')}`);
  const [triple, glibc] = target.split(/(?<=gnu)\./);
  const isLinux = platform.startsWith('linux');
  const env = { ...process.env };
  // A shared library of musl; by default Rust links musl statically into programs.
  if (triple.endsWith('musl')) env.RUSTFLAGS = '-C target-feature=-crt-static';
  // Zig has the headers and libraries of every target and glibc version.
  await run('cargo', [isLinux ? 'zigbuild' : 'build', '--release', '--locked', '--target', target], { env });
  const built = path.join(root, 'target', triple, 'release', 'libpaperclip_adapter_claude_k8s');
  const out = path.join(root, 'target', 'addons', `${NAME}.${platform}.node`);
  mkdirSync(path.dirname(out), { recursive: true });
  cpSync(`${built}.${isLinux ? 'so' : 'dylib'}`, out);
  if (glibc) checkGlibc(out, glibc);
  console.log(out);
}

/** Fails if a shared library asks for a newer glibc. @param {string} file @param {string} most */
function checkGlibc(file, most) {
  const { status, stdout, error } = spawnSync('objdump', ['-T', file], { encoding: 'utf8' });
  if (status !== 0) throw new Problem(`objdump -T ${file} failed: ${error ?? `exit ${status}`}`);
  const versions = [...stdout.matchAll(/GLIBC_(\d+)\.(\d+)/g)].map(([, major, minor]) => [+major, +minor]);
  if (versions.length === 0) throw new Problem(`${file} names no version of glibc`);
  const [newest] = versions.toSorted(([a, b], [c, d]) => c - a || d - b);
  const [major, minor] = most.split('.').map(Number);
  if (newest[0] > major || (newest[0] === major && newest[1] > minor)) {
    throw new Problem(`${file} needs glibc ${newest.join('.')}, but must run on ${most}`);
  }
  step(`asks for glibc ${newest.join('.')} at most`);
}

function papers() {
  const { version, dependencies } = JSON.parse(read('package.json'));
  const locked = JSON.parse(read('package-lock.json')).packages;
  const installed = Object.keys(dependencies).map((name) => [name, locked[`node_modules/${name}`].version]);
  const crates = linkedCrates();
  const out = path.join(PACKAGES, 'papers');
  mkdirSync(out, { recursive: true });
  const write = (name, text) => writeFileSync(path.join(out, name), text);
  write('NOTICE', notice(crates));
  write(
    'sbom.cdx.json',
    JSON.stringify(billOfMaterials(version, crates, Object.fromEntries(installed)), undefined, 2),
  );
  const sums = tarballs().map((file) => {
    const digest = createHash('sha256').update(readFileSync(file)).digest('hex');
    return `${digest}  ${path.basename(file)}\n`;
  });
  write('SHA256SUMS', sums.join(''));
  console.log(readdirSync(out).join('\n'));
}

/** @param {{'dry-run'?: boolean}} options */
async function publish({ 'dry-run': isDry }) {
  const { version } = JSON.parse(read('package.json'));
  for (const file of tarballs()) {
    const name = path.basename(file).replace(`-${version}.tgz`, '');
    const { stdout } = spawnSync('npm', ['view', `${name}@${version}`, 'version'], { encoding: 'utf8' });
    if (stdout.trim() === version) {
      step(`${name}@${version} is published already`);
      continue;
    }
    // A version with a hyphen is not what `npm install` without a version gets.
    const tag = version.includes('-') ? 'next' : 'latest';
    const options = ['--access', 'public', '--tag', tag, ...(isDry ? ['--dry-run'] : ['--provenance'])];
    await run('npm', ['publish', file, ...options]);
  }
}

/** The tarballs, that of the main package last: it asks for the others. */
function tarballs() {
  const { version } = JSON.parse(read('package.json'));
  const files = readdirSync(PACKAGES).filter((name) => name.endsWith('.tgz'));
  const isMain = (/** @type {string} */ name) => name === `${NAME}-${version}.tgz`;
  return files
    .toSorted((a, b) => Number(isMain(a)) - Number(isMain(b)) || a.localeCompare(b))
    .map((name) => path.join(PACKAGES, name));
}
