// What an addon asks of the system is read from the file: wrongly read, a release would fail where it is installed.
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { describe, expect, it } from 'vitest';

import { checkAddon, readNeeds } from '../../tools/dev/symbols.mjs';
import { temporaryFolder } from '../support/temporary.js';

const [X64, ARM64] = [62, 183];
/** Where the segment is loaded: addresses are not offsets. */
const ADDRESS = 0x4000;

/**
 * A shared library that asks for versions of symbols, each of its own library.
 *
 * @param {Record<string, string[]>} needs versions by library
 * @param {number} [machine]
 */
function library(needs, machine = X64) {
  const bytes = Buffer.alloc(4096);
  let end = 1;
  const [header, dynamic, versions, strings] = [64, 256, 1024, 2048];
  /** @param {string} text */
  const string = (text) => {
    const at = end;
    end += bytes.write(`${text}\0`, strings + at, 'latin1');
    return at;
  };
  bytes.write('\x7fELF\x02\x01', 'latin1');
  bytes.writeUInt16LE(machine, 18);
  bytes.writeBigUInt64LE(BigInt(header), 32);
  bytes.writeUInt16LE(56, 54);
  bytes.writeUInt16LE(2, 56);
  for (const [index, [type, offset, size]] of [
    [1, 0, bytes.length],
    [2, dynamic, 512],
  ].entries()) {
    const at = header + index * 56;
    bytes.writeUInt32LE(type, at);
    bytes.writeBigUInt64LE(BigInt(offset), at + 8);
    bytes.writeBigUInt64LE(BigInt(offset + ADDRESS), at + 16);
    bytes.writeBigUInt64LE(BigInt(size), at + 32);
  }
  let need = versions;
  let entry = dynamic;
  /** @param {number} tag @param {number} value */
  const dynamicEntry = (tag, value) => {
    bytes.writeBigUInt64LE(BigInt(tag), entry);
    bytes.writeBigUInt64LE(BigInt(value), entry + 8);
    entry += 16;
  };
  const versioned = Object.entries(needs).filter(([, names]) => names.length > 0);
  for (const [name] of Object.entries(needs)) dynamicEntry(1, string(name));
  for (const [index, [name, names]] of versioned.entries()) {
    const size = 16 + names.length * 16;
    bytes.writeUInt16LE(1, need);
    bytes.writeUInt16LE(names.length, need + 2);
    bytes.writeUInt32LE(string(name), need + 4);
    bytes.writeUInt32LE(16, need + 8);
    bytes.writeUInt32LE(index === versioned.length - 1 ? 0 : size, need + 12);
    for (const [number, version] of names.entries()) {
      const at = need + 16 + number * 16;
      bytes.writeUInt32LE(string(version), at + 8);
      bytes.writeUInt32LE(number === names.length - 1 ? 0 : 16, at + 12);
    }
    need += size;
  }
  dynamicEntry(5, strings + ADDRESS);
  dynamicEntry(0x6ffffffe, versions + ADDRESS);
  dynamicEntry(0x6fffffff, versioned.length);
  return bytes;
}

/** @param {Buffer} bytes */
function file(bytes) {
  const name = path.join(temporaryFolder('symbols'), 'addon.node');
  writeFileSync(name, bytes);
  return name;
}

/** @param {number} processor as Mach-O numbers them */
function machO(processor) {
  const bytes = Buffer.alloc(32);
  bytes.writeUInt32LE(0xfeedfacf);
  bytes.writeUInt32LE(processor, 4);
  return bytes;
}

const OLD = { 'libc.so.6': ['GLIBC_2.2.5', 'GLIBC_2.17'], 'libm.so.6': ['GLIBC_2.2.5'] };

describe('an addon for glibc', () => {
  it('that_asks_for_old_symbols_passes', () => {
    expect(checkAddon(file(library(OLD)), 'linux-x64-gnu', '2.17')).toBe(
      'asks for GLIBC_2.17, GLIBC_2.2.5 of libc.so.6, libm.so.6',
    );
    expect(checkAddon(file(library(OLD, ARM64)), 'linux-arm64-gnu', '2.17')).toMatch(/^asks for/);
  });

  it.each([
    ['GLIBC_2.18'],
    ['GLIBC_2.34'],
    ['GLIBC_2.100'],
    ['GLIBC_2.17.1'],
    ['GLIBC_3.0'],
    ['GLIBC_PRIVATE'],
    ['GLIBC_ABI_DT_RELR'],
  ])('that_asks_for_%s_is_refused', (version) => {
    const needs = { ...OLD, 'libpthread.so.0': ['GLIBC_2.12', version] };
    expect(() => checkAddon(file(library(needs)), 'linux-x64-gnu', '2.17')).toThrow(
      `needs ${version}, but must run on glibc 2.17`,
    );
  });

  it('that_names_no_version_was_not_read', () => {
    const bytes = library({ 'libc.so.6': [] });
    expect(() => checkAddon(file(bytes), 'linux-x64-gnu', '2.17')).toThrow('names no version of glibc');
  });

  it('that_needs_another_library_is_refused', () => {
    const bytes = library({ ...OLD, 'libssl.so.3': ['OPENSSL_3.0.0'] });
    expect(() => checkAddon(file(bytes), 'linux-x64-gnu', '2.17')).toThrow(/needs libssl\.so\.3, which not/);
  });
});

describe('an addon', () => {
  it('of_another_processor_is_refused', () => {
    expect(() => checkAddon(file(library(OLD)), 'linux-arm64-gnu', '2.17')).toThrow(/is for x64, not for/);
    expect(() => checkAddon(file(library(OLD, 8)), 'linux-x64-gnu', '2.17')).toThrow(/is for processor 8,/);
    expect(() => checkAddon(file(machO(0x01000007)), 'darwin-arm64')).toThrow(/is for x64, not for/);
  });

  it('of_another_system_is_refused', () => {
    expect(() => checkAddon(file(machO(0x01000007)), 'linux-x64-gnu', '2.17')).toThrow(/is not an ELF file/);
    expect(() => checkAddon(file(library(OLD)), 'darwin-x64')).toThrow(/is for no Mach-O file/);
    expect(() => checkAddon(file(library(OLD)), 'linux-x64-musl')).toThrow(/needs libc\.so\.6, libm/);
  });

  it('for_musl_or_macos_passes', () => {
    expect(checkAddon(file(library({ 'libc.so': [] })), 'linux-x64-musl')).toBe('asks for libc.so');
    expect(checkAddon(file(machO(0x0100000c)), 'darwin-arm64')).toBe('is for darwin-arm64');
  });

  it('that_is_cut_off_is_refused', () => {
    expect(() => readNeeds(Buffer.from('\x7fELF'), 'a')).toThrow('a is not an ELF file of 64 bits');
  });
});

// Other systems' programs are not ELF files.
it.runIf(process.platform === 'linux')('reads_what_the_running_node_asks_for', () => {
  const { processor, libraries } = readNeeds(readFileSync(process.execPath), 'node');
  expect(processor).toBe(process.arch);
  expect(libraries.some((name) => /^lib(c|stdc\+\+)\b/.test(name))).toBe(true);
});
