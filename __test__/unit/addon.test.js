import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

import { describe, expect, it } from 'vitest';

import { PLATFORMS, libcOf, loadAddon } from '../../js/addon.js';
import { temporaryFolder } from '../support/temporary.js';

const NAME = 'paperclip-adapter-claude-k8s';
const manifest = createRequire(import.meta.url)('../../package.json');

/**
 * Installs packages of platforms into an empty project.
 *
 * @param {Record<string, { version: string; code: string }>} packages by platform
 */
function project(packages = {}) {
  const root = temporaryFolder('addon');
  for (const [platform, { version, code }] of Object.entries(packages)) {
    const folder = path.join(root, 'node_modules', `${NAME}-${platform}`);
    mkdirSync(folder, { recursive: true });
    writeFileSync(path.join(folder, 'package.json'), JSON.stringify({ version, main: 'addon.node' }));
    writeFileSync(path.join(folder, 'addon.node'), code);
  }
  return {
    platform: 'linux-x64-musl',
    version: '1.2.3',
    folder: `${path.join(root, 'generated')}/`,
    require: createRequire(path.join(root, 'index.js')),
    /** @param {string} file */
    open: (file) => {
      const code = readFileSync(file, 'utf8');
      if (code.startsWith('cannot')) throw new Error(code);
      return code;
    },
  };
}

/** A 64-bit ELF file with one segment that names a dynamic loader. @param {string} loader */
function elf(loader) {
  const file = Buffer.alloc(256);
  file.write('\x7fELF', 'latin1');
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(2, 56);
  file.writeUInt32LE(6, 64);
  file.writeUInt32LE(3, 120);
  file.writeBigUInt64LE(180n, 128);
  file.writeBigUInt64LE(BigInt(loader.length), 152);
  file.write(loader, 180, 'latin1');
  const name = path.join(temporaryFolder('addon'), 'program');
  writeFileSync(name, file);
  return name;
}

describe('the platforms', () => {
  it('are those that are built', () => {
    const built = manifest.napi.targets.map((/** @type {string} */ target) => {
      const [processor, , system, libc] = target.split('-');
      const arch = processor === 'x86_64' ? 'x64' : 'arm64';
      return system === 'darwin' ? `darwin-${arch}` : `${system}-${arch}-${libc}`;
    });
    expect(PLATFORMS.toSorted()).toEqual(built.toSorted());
  });

  it.each([
    ['/lib/ld-musl-x86_64.so.1', 'musl'],
    ['/lib64/ld-linux-x86-64.so.2', 'gnu'],
  ])('libc_of_a_program_with_%s_is_%s', (loader, libc) => {
    expect(libcOf(elf(loader))).toBe(libc);
  });

  it('libc_of_what_cannot_be_read_is_gnu', () => {
    expect(libcOf('/no/such/program')).toBe('gnu');
    const empty = path.join(temporaryFolder('addon'), 'empty');
    writeFileSync(empty, '');
    expect(libcOf(empty)).toBe('gnu');
  });
});

describe('the addon', () => {
  it('built_beside_the_package_comes_first', () => {
    const places = project({ 'linux-x64-musl': { version: '1.2.3', code: 'of the package' } });
    mkdirSync(places.folder);
    const local = `${places.folder}${NAME}.linux-x64-musl.node`;
    writeFileSync(local, 'beside');
    expect(loadAddon(places)).toBe('beside');
  });

  it('of_the_platform_package_is_loaded', () => {
    const places = project({ 'linux-x64-musl': { version: '1.2.3', code: 'of the package' } });
    expect(loadAddon(places)).toBe('of the package');
  });

  it('of_an_update_is_found_although_another_was_read_before', () => {
    const places = project({ 'linux-x64-musl': { version: '1.2.3', code: 'old' } });
    expect(loadAddon(places)).toBe('old');
    const folder = path.join(path.dirname(places.folder), 'node_modules', `${NAME}-linux-x64-musl`);
    writeFileSync(
      path.join(folder, 'package.json'),
      JSON.stringify({ version: '1.2.4', main: 'newer.node' }),
    );
    writeFileSync(path.join(folder, 'newer.node'), 'new');
    expect(loadAddon({ ...places, version: '1.2.4' })).toBe('new');
  });

  it('of_an_unknown_platform_names_those_that_exist', () => {
    const places = project({ 'freebsd-x64': { version: '1.2.3', code: '' } });
    expect(() => loadAddon({ ...places, platform: 'freebsd-x64' })).toThrow(
      /^paperclip-adapter-claude-k8s has no addon for freebsd-x64, only for linux-x64-gnu, .*npm run build/,
    );
  });

  it('that_is_not_installed_is_named_with_the_cure', () => {
    expect(() => loadAddon(project({ 'linux-x64-gnu': { version: '1.2.3', code: '' } }))).toThrow(
      /^paperclip-adapter-claude-k8s-linux-x64-musl 1\.2\.3 is not installed.*--omit=optional.*npm before 11\.3/,
    );
  });

  it('of_another_version_is_refused', () => {
    expect(() => loadAddon(project({ 'linux-x64-musl': { version: '1.2.2', code: '' } }))).toThrow(
      'paperclip-adapter-claude-k8s-linux-x64-musl is 1.2.2, but paperclip-adapter-claude-k8s is 1.2.3: install both of one version.',
    );
  });

  it('that_the_system_refuses_keeps_its_reason', () => {
    const code = 'cannot: version `GLIBC_2.38` not found\nmore of it';
    const attempt = () => loadAddon(project({ 'linux-x64-musl': { version: '1.2.3', code } }));
    expect(attempt).toThrow(
      /^\S+-linux-x64-musl 1\.2\.3 cannot be loaded in Node \S+: cannot: version `GLIBC_2\.38` not found$/,
    );
  });
});
