// Packages from the Debian archive that this machine is configured for. They are unpacked into the cache and not
// installed: no service starts, the system does not change, and other versions of the same packages stay.
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { Problem } from '../dev/lib.mjs';
import { once } from './cache.mjs';
import { output } from './command.mjs';

/** The release that a cluster of processes has been tried on. */
const CODENAME = 'bookworm';

/** What is unpacked side by side as one tree: a static busybox for images, and what runc links. */
const PACKAGES = ['busybox-static', 'libseccomp-dev'];

/** Whether this machine runs that release. */
export function isRelease() {
  const release = existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : '';
  return new RegExp(`^VERSION_CODENAME=${CODENAME}$`, 'm').test(release);
}

/** Throws a Problem unless `isRelease`. */
export function checkRelease() {
  if (!isRelease()) {
    throw new Problem(
      'a cluster without a container engine has been tried on Debian 12 alone, and this is another system: ' +
        'install kind and a container engine, or name a cluster of yours with KUBECONFIG and --existing.',
    );
  }
}

/** The programs of all packages below one folder, as in a root file system. */
export function packages() {
  return once('packages-debian12', (dir) => unpack(PACKAGES, dir));
}

async function unpack(names, dir) {
  // Lists of its own, in the step's own folder: two processes that do the step at once share no lock of apt.
  const work = path.join(dir, 'apt');
  const apt = aptOptions(work);
  for (const folder of ['sources', 'lists/partial', 'cache/archives/partial', 'archives']) {
    mkdirSync(path.join(work, folder), { recursive: true });
  }
  writeFileSync(path.join(work, 'sources', 'release.sources'), releaseSources());
  const archives = path.join(work, 'archives');
  await output('apt-get', [...apt, 'update']);
  await output('apt-get', [...apt, 'download', ...names], { cwd: archives });
  for (const file of readdirSync(archives)) {
    await output('dpkg', ['--extract', path.join(archives, file), dir]);
  }
  rmSync(work, { recursive: true });
}

/** The options that keep apt to package lists below `dir`, apart from the system's. */
function aptOptions(dir) {
  return [
    ['Dir::Etc::SourceList', '/dev/null'],
    ['Dir::Etc::SourceParts', path.join(dir, 'sources')],
    ['Dir::State::Lists', path.join(dir, 'lists')],
    ['Dir::Cache', path.join(dir, 'cache')],
    // As root apt would download as a user that cannot enter this folder.
    ['APT::Sandbox::User', ''],
    ['Acquire::Retries', '3'],
  ].flatMap(([key, value]) => ['-o', `${key}=${value}`]);
}

/** The release's stanzas among the machine's own sources, in deb822 format. */
function releaseSources() {
  const ofRelease = (suite) => suite === CODENAME || suite.startsWith(`${CODENAME}-`);
  const found = [];
  for (const [file, text] of sourceFiles()) {
    if (file.endsWith('.sources')) {
      for (const stanza of text.replace(/^#.*\n/gm, '').split(/\n\s*\n/)) {
        const suites = /^Suites:(.*)$/im.exec(stanza)?.[1].trim().split(/\s+/) ?? [];
        const off = /^Enabled:\s*no\s*$/im.test(stanza);
        if (suites.length && suites.every(ofRelease) && !off) {
          found.push(stanza.trim().replace(/^Types:.*$/im, 'Types: deb'));
        }
      }
    } else {
      for (const line of text.split('\n')) {
        const [, options = '', uri, suite, components] =
          /^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)$/.exec(line.trim()) ?? [];
        if (!uri || !ofRelease(suite)) continue;
        const key = /signed-by=(\S+)/i.exec(options)?.[1];
        found.push(
          `Types: deb\nURIs: ${uri}\nSuites: ${suite}\nComponents: ${components}` +
            (key ? `\nSigned-By: ${key}` : ''),
        );
      }
    }
  }
  if (!found.length) throw new Problem(`no Debian source for ${CODENAME} in /etc/apt.`);
  return `${[...new Set(found)].join('\n\n')}\n`;
}

function sourceFiles() {
  const parts = '/etc/apt/sources.list.d';
  const files = [
    '/etc/apt/sources.list',
    ...(existsSync(parts) ? readdirSync(parts).map((f) => path.join(parts, f)) : []),
  ];
  return files
    .filter((file) => /\.(list|sources)$/.test(file) && existsSync(file))
    .map((file) => [file, readFileSync(file, 'utf8')]);
}
