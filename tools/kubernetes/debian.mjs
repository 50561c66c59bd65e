// Packages and sources from the Debian archive that this machine is configured for. They are unpacked into the cache
// and not installed: no service starts, the system does not change, and other versions of the same packages stay.
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { Problem } from '../dev/lib.mjs';
import { cache, once } from './cache.mjs';
import { output } from './command.mjs';

/** The only release that has all the packages, in versions that fit each other. */
const CODENAME = 'bookworm';

/** The packages that are unpacked into one tree. */
const PACKAGES = [
  'busybox-static',
  'containerd',
  'containernetworking-plugins',
  'etcd-server',
  'kubernetes-client',
  'runc',
];
/** The packages that build Kubernetes. */
const TOOLCHAIN = ['golang-1.19-go', 'golang-1.19-src'];

/** Whether this machine runs that release. */
export function isRelease() {
  const release = existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : '';
  return new RegExp(`^VERSION_CODENAME=${CODENAME}$`, 'm').test(release);
}

/** Throws a Problem unless `isRelease`. */
export function checkRelease() {
  if (!isRelease()) {
    throw new Problem(
      'a cluster without a container engine is built from the packages of Debian 12, and this is another system: ' +
        'install kind and a container engine, or name a cluster of yours with KUBECONFIG and --existing.',
    );
  }
}

/** The programs of all packages below one folder, as in a root file system. */
export function packages() {
  return once('packages', (dir) => unpack(PACKAGES, dir));
}

/** A Go toolchain; returns its GOROOT. */
export async function goToolchain() {
  const dir = await once('toolchain', (into) => unpack(TOOLCHAIN, into));
  return path.join(dir, 'usr/lib/go-1.19');
}

/** The source of a package with Debian's patches applied, in `into`. */
export async function source(name, into) {
  const apt = await lists();
  const dir = `${into}.download`;
  mkdirSync(dir, { recursive: true });
  await output('apt-get', [...apt, '--only-source', '--download-only', 'source', name], { cwd: dir });
  const description = readdirSync(dir).find((file) => file.endsWith('.dsc'));
  if (!description) throw new Error(`no source of ${name} was downloaded to ${dir}`);
  await output('dpkg-source', ['--extract', description, into], { cwd: dir });
}

async function unpack(names, dir) {
  const apt = await lists();
  const archives = path.join(dir, 'archives');
  mkdirSync(archives);
  await output('apt-get', [...apt, 'download', ...names], { cwd: archives });
  for (const file of readdirSync(archives)) {
    await output('dpkg', ['--extract', path.join(archives, file), dir]);
  }
}

/** Makes package lists apart from the system's, from this machine's sources of the release; returns apt's options for them. */
async function lists() {
  const dir = path.join(cache, 'apt');
  const options = [
    ['Dir::Etc::SourceList', '/dev/null'],
    ['Dir::Etc::SourceParts', path.join(dir, 'sources')],
    ['Dir::State::Lists', path.join(dir, 'lists')],
    ['Dir::Cache', path.join(dir, 'cache')],
    // As root apt would download as a user that cannot enter this folder.
    ['APT::Sandbox::User', ''],
    ['Acquire::Retries', '3'],
  ].flatMap(([key, value]) => ['-o', `${key}=${value}`]);
  await once('apt/ready', async () => {
    for (const folder of ['sources', 'lists/partial', 'cache/archives/partial']) {
      mkdirSync(path.join(dir, folder), { recursive: true });
    }
    writeFileSync(path.join(dir, 'sources', 'release.sources'), releaseSources());
    await output('apt-get', [...options, 'update']);
  });
  return options;
}

/** The release's stanzas among the machine's sources, in deb822 format, for packages and sources alike. */
function releaseSources() {
  const ofRelease = (suite) => suite === CODENAME || suite.startsWith(`${CODENAME}-`);
  const found = [];
  for (const [file, text] of sourceFiles()) {
    if (file.endsWith('.sources')) {
      for (const stanza of text.replace(/^#.*\n/gm, '').split(/\n\s*\n/)) {
        const suites = /^Suites:(.*)$/im.exec(stanza)?.[1].trim().split(/\s+/) ?? [];
        const off = /^Enabled:\s*no\s*$/im.test(stanza);
        if (suites.length && suites.every(ofRelease) && !off) {
          found.push(stanza.trim().replace(/^Types:.*$/im, 'Types: deb deb-src'));
        }
      }
    } else {
      for (const line of text.split('\n')) {
        const [, options = '', uri, suite, components] =
          /^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)$/.exec(line.trim()) ?? [];
        if (!uri || !ofRelease(suite)) continue;
        const key = /signed-by=(\S+)/i.exec(options)?.[1];
        found.push(
          `Types: deb deb-src\nURIs: ${uri}\nSuites: ${suite}\nComponents: ${components}` +
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
