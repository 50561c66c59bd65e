// Container images made from files of this machine, without a registry and without a container engine.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  createReadStream,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';

import { output } from './command.mjs';

const ARCHITECTURES = { x64: 'amd64', arm64: 'arm64' };

/**
 * @typedef {object} ImageFile
 * @property {string} to absolute path in the image
 * @property {string} [from] the file on this machine; symbolic links are followed
 * @property {string} [content] instead of `from`
 * @property {string} [link] instead of `from`: the target of a symbolic link
 * @property {boolean} [directory] instead of `from`: an empty directory
 * @property {number} [mode] 0o755 by default
 */

/**
 * Writes an image of one layer as a docker-archive, which `ctr images import` and `kind load image-archive` take.
 *
 * @param {object} image
 * @param {string} image.name with its tag, as in `docker.io/library/busybox:1.36`
 * @param {ImageFile[]} image.files a later one replaces an earlier one; parents are made
 * @param {string[]} [image.env] `NAME=value`
 * @param {string[]} [image.command]
 * @param {string} image.archive the file to write
 * @returns {Promise<string>} the archive
 */
export async function makeImage({ name, files, env = [], command = ['/bin/sh'], archive }) {
  mkdirSync(path.dirname(archive), { recursive: true });
  const work = mkdtempSync(`${archive}.`);
  try {
    const tree = path.join(work, 'tree');
    mkdirSync(tree);
    for (const file of files) place(tree, file);
    const layer = path.join(work, 'layer.tar');
    await tar(layer, tree, '.');
    rmSync(tree, { recursive: true });
    const diffId = await sha256(layer);
    const config = JSON.stringify({
      architecture: ARCHITECTURES[process.arch] ?? process.arch,
      os: 'linux',
      created: '1970-01-01T00:00:00Z',
      config: { Env: ['PATH=/usr/local/bin:/usr/bin:/bin', ...env], Cmd: command },
      rootfs: { type: 'layers', diff_ids: [`sha256:${diffId}`] },
      history: [{ created: '1970-01-01T00:00:00Z' }],
    });
    const configName = `${createHash('sha256').update(config).digest('hex')}.json`;
    writeFileSync(path.join(work, configName), config);
    const manifest = [{ Config: configName, RepoTags: [name], Layers: ['layer.tar'] }];
    writeFileSync(path.join(work, 'manifest.json'), JSON.stringify(manifest));
    await tar(archive, work, 'manifest.json', configName, 'layer.tar');
    return archive;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Gives the same bytes for the same tree, so that importing an image again changes nothing. */
function tar(file, dir, ...members) {
  const options = ['--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner', '--format=gnu'];
  return output('tar', [...options, '-C', dir, '-cf', file, ...members]);
}

/**
 * @param {string} tree
 * @param {ImageFile} file
 */
function place(tree, { to, from = '', content, link, directory, mode = 0o755 }) {
  const target = path.join(tree, to);
  mkdirSync(path.dirname(target), { recursive: true });
  if (directory) {
    mkdirSync(target, { recursive: true });
    chmodSync(target, mode);
    return;
  }
  rmSync(target, { force: true });
  if (link !== undefined) return symlinkSync(link, target);
  if (content !== undefined) writeFileSync(target, content);
  else copyFileSync(from, target);
  chmodSync(target, mode);
}

/**
 * A short text that changes with what is in these files.
 *
 * @param {ImageFile[]} files
 */
export function contentTag(files) {
  const hash = createHash('sha256');
  for (const { from, ...rest } of files) {
    hash.update(JSON.stringify(rest));
    if (from !== undefined) hash.update(readFileSync(from));
  }
  return hash.digest('hex').slice(0, 12);
}

async function sha256(file) {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file)) hash.update(chunk);
  return hash.digest('hex');
}

/** busybox with a link for each of its programs, a user and a group with the id that Jobs run as, and /tmp. */
export function busyboxFiles(busybox) {
  const { stdout, error } = spawnSync(busybox, ['--list'], { encoding: 'utf8' });
  if (error) throw error;
  return [
    { to: '/tmp', directory: true, mode: 0o1777 },
    { to: '/home/node', directory: true, mode: 0o777 },
    {
      to: '/etc/passwd',
      content: 'root:x:0:0::/:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n',
      mode: 0o644,
    },
    { to: '/etc/group', content: 'root:x:0:\nnode:x:1000:\n', mode: 0o644 },
    { to: '/bin/busybox', from: busybox },
    ...stdout
      .split('\n')
      .filter((name) => name && name !== 'busybox')
      .map((name) => ({ to: `/bin/${name}`, link: 'busybox' })),
  ];
}

/** A program and the shared libraries that it is linked to, each at the path where the program loads it from. */
export function programFiles(to, from) {
  const { stdout, status } = spawnSync('ldd', [from], { encoding: 'utf8' });
  const libraries =
    status === 0 ? [...stdout.matchAll(/(?:=>\s*)?(\/\S+)\s+\(0x/g)].map(([, file]) => file) : [];
  return [{ to, from }, ...libraries.map((file) => ({ to: file, from: file }))];
}
