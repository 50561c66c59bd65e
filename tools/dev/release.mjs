// The steps of the release workflow that are more than one command.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { PLATFORMS, currentPlatform } from '../../js/addon.js';
import { billOfMaterials, linkedCrates, notice } from './crates.mjs';
import { Problem, checkPrerequisites, program, root, run, step } from './lib.mjs';
import { checkAddon } from './symbols.mjs';

const USAGE = `node tools/dev/release.mjs COMMAND
  notes TAG               prints the CHANGELOG's section of a version; fails unless tag and package.json agree
  addon [PLATFORM]        builds the addon of a platform (linux-arm64-gnu; default: this machine's) into target/addons and
                          checks what it asks of the system; for Linux, and for macOS on another system (SDKROOT has
                          Apple's SDK there), with Zig (tools/dev/zig-requirements.txt)
  papers                  writes checksums, bill of materials and NOTICE beside the tarballs of target/packages
  publish [--dry-run]     publishes these tarballs, platforms first; what the registry has already is skipped`;

const NAME = 'paperclip-adapter-claude-k8s';
/** CentOS 7's; no build of Node 20 runs on an older one. */
const OLDEST_GLIBC = '2.17';
const PACKAGES = path.join(root, 'target', 'packages');
const read = (file) => readFileSync(path.join(root, file), 'utf8');

const COMMANDS = { notes, addon, papers, publish };

await program(
  USAGE,
  { options: { 'dry-run': { type: 'boolean' } }, allowPositionals: true },
  async ({ values, positionals: [command = '', argument] }) => {
    if (!Object.hasOwn(COMMANDS, command)) throw new Problem(USAGE);
    await COMMANDS[command](argument, values);
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

/** @param {string} [platform] as in `PLATFORMS` */
async function addon(platform = currentPlatform()) {
  if (!PLATFORMS.includes(platform)) throw new Problem(`${platform} is none of ${PLATFORMS.join(', ')}`);
  const triple = tripleOf(platform);
  const glibc = triple.endsWith('gnu') ? OLDEST_GLIBC : undefined;
  const isMac = platform.startsWith('darwin');
  // Zig has the headers and libraries of every target and version of glibc; on macOS the system's own are there.
  const withZig = !isMac || process.platform !== 'darwin';
  checkTools(withZig);
  if (answers('rustup', '--version')) await run('rustup', ['--quiet', 'target', 'add', triple]);
  // These two would be preferred to Zig where the target is the system that builds.
  const { HOST_CC: _cc, HOST_CXX: _cxx, ...env } = process.env;
  // A shared library of musl; by default Rust links musl statically into programs.
  if (triple.endsWith('musl')) env.RUSTFLAGS = '-C target-feature=-crt-static';
  const target = glibc ? `${triple}.${glibc}` : triple;
  step(`Building the addon for ${target}`);
  await run('cargo', [withZig ? 'zigbuild' : 'build', '--release', '--locked', '--target', target], { env });
  const folder = process.env.CARGO_TARGET_DIR ?? path.join(root, 'target');
  const built = path.join(
    folder,
    triple,
    'release',
    `libpaperclip_adapter_claude_k8s.${isMac ? 'dylib' : 'so'}`,
  );
  step(`${platform} ${checkAddon(built, platform, glibc)}`);
  const out = path.join(root, 'target', 'addons', `${NAME}.${platform}.node`);
  mkdirSync(path.dirname(out), { recursive: true });
  cpSync(built, out);
  console.log(out);
}

/** What Rust calls a platform. @param {string} platform as in `PLATFORMS` */
function tripleOf(platform) {
  const [system, processor = '', libc] = platform.split('-');
  const cpu = { x64: 'x86_64', arm64: 'aarch64' }[processor];
  return system === 'darwin' ? `${cpu}-apple-darwin` : `${cpu}-unknown-linux-${libc}`;
}

/** Fails with a line that says what to install. @param {boolean} withZig */
function checkTools(withZig) {
  checkPrerequisites();
  if (withZig && !answers('cargo-zigbuild', '--version')) {
    throw new Problem(
      'cargo-zigbuild was not found: `pip install -r tools/dev/zig-requirements.txt`, then try again with it on the PATH.',
    );
  }
}

/** Whether a program can be run. @param {string} command @param {...string} args */
function answers(command, ...args) {
  return spawnSync(command, args, { stdio: 'ignore' }).status === 0;
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

/** @param {undefined} _argument @param {{'dry-run'?: boolean}} options */
async function publish(_argument, { 'dry-run': isDry }) {
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
