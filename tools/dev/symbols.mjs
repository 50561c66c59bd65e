// What a built addon asks of the system that loads it, read from the file itself: the dynamic section of ELF (elf(5)), as the
// system's loader reads it, and the header of Mach-O. So it is checked on any machine, for any platform.
import { readFileSync } from 'node:fs';

import { Problem } from './lib.mjs';

/**
 * @typedef {object} Needs
 * @property {string} processor `x64`, `arm64`, or its number
 * @property {string[]} libraries by name, such as `libc.so.6`
 * @property {string[]} versions of symbols, such as `GLIBC_2.17`
 */

const PROCESSORS = { 62: 'x64', 183: 'arm64', [0x01000007]: 'x64', [0x0100000c]: 'arm64' };
const MACH_O_64 = 0xfeedfacf;
const ELF = 0x464c457f;

/** Libraries that every system of a C library has, with Node itself. */
const SYSTEM_LIBRARIES = {
  gnu: /^(lib(c|m|dl|rt|util|pthread|gcc_s)\.so\.\d|ld-linux[\w.-]*)$/,
  musl: /^(libc(\.musl-\w+)?\.so(\.1)?|ld-musl-\w+\.so\.1|libgcc_s\.so\.1)$/,
};

/**
 * Fails unless an addon can be loaded where it is meant for.
 *
 * @param {string} file
 * @param {string} platform as in `PLATFORMS` of js/addon.js
 * @param {string} [glibc] the oldest version that it must run on
 * @returns {string} what it asks for, for people
 * @throws {Problem} one line
 */
export function checkAddon(file, platform, glibc) {
  const [system = '', processor, libc] = platform.split('-');
  const bytes = readFileSync(file);
  if (system === 'darwin') {
    const isMachO = bytes.length > 8 && bytes.readUInt32LE(0) === MACH_O_64;
    const found = isMachO ? processorOf(bytes.readUInt32LE(4)) : 'no Mach-O file';
    if (found !== processor) throw new Problem(`${file} is for ${found}, not for ${platform}`);
    return `is for ${platform}`;
  }
  const needs = readNeeds(bytes, file);
  if (needs.processor !== processor) {
    throw new Problem(`${file} is for ${needs.processor}, not for ${platform}`);
  }
  const others = needs.libraries.filter((name) => !SYSTEM_LIBRARIES[libc ?? '']?.test(name));
  if (others.length > 0) {
    throw new Problem(`${file} needs ${others.join(', ')}, which not every ${platform} has`);
  }
  const ofGlibc = needs.versions.filter((name) => name.startsWith('GLIBC_'));
  if (libc !== 'gnu') {
    if (ofGlibc.length > 0) throw new Problem(`${file} needs ${ofGlibc.join(', ')}, which ${libc} has not`);
    return `asks for ${needs.libraries.join(', ')}`;
  }
  // A file that names none was not read rightly: every addon allocates memory.
  if (ofGlibc.length === 0) throw new Problem(`${file} names no version of glibc`);
  const most = glibc ?? '';
  const newer = ofGlibc.filter((name) => !isAtMost(name.slice('GLIBC_'.length), most));
  if (newer.length > 0) {
    throw new Problem(`${file} needs ${newer.join(', ')}, but must run on glibc ${most}`);
  }
  return `asks for ${ofGlibc.join(', ')} of ${needs.libraries.join(', ')}`;
}

/**
 * Whether a version of glibc has the symbols of another one. Names without numbers (`GLIBC_PRIVATE`, `GLIBC_ABI_DT_RELR`)
 * are of newer versions, or of none that is promised.
 *
 * @param {string} version @param {string} most
 */
function isAtMost(version, most) {
  const numbers = (/** @type {string} */ text) => text.split('.').map(Number);
  const [[major = NaN, minor = NaN, patch = 0], [mostMajor = NaN, mostMinor = NaN, mostPatch = 0]] = [
    numbers(version),
    numbers(most),
  ];
  if (major !== mostMajor) return major < mostMajor;
  return minor === mostMinor ? patch <= mostPatch : minor < mostMinor;
}

/** @param {number} machine */
function processorOf(machine) {
  return PROCESSORS[machine] ?? `processor ${machine}`;
}

/**
 * What a 64-bit little-endian ELF file asks for.
 *
 * @param {Buffer} bytes
 * @param {string} name of the file, for the messages
 * @returns {Needs}
 */
export function readNeeds(bytes, name) {
  if (bytes.length < 64 || bytes.readUInt32LE(0) !== ELF || bytes[4] !== 2 || bytes[5] !== 1) {
    throw new Problem(`${name} is not an ELF file of 64 bits`);
  }
  const u64 = (/** @type {number} */ at) => Number(bytes.readBigUInt64LE(at));
  const [table, size, count] = [u64(32), bytes.readUInt16LE(54), bytes.readUInt16LE(56)];
  const segments = Array.from({ length: count }, (_, index) => {
    const at = table + index * size;
    return {
      type: bytes.readUInt32LE(at),
      offset: u64(at + 8),
      address: u64(at + 16),
      bytes: u64(at + 32),
    };
  });
  const [PT_LOAD, PT_DYNAMIC] = [1, 2];
  /** Where an address of the loaded file is in the file. @param {number} address */
  const offsetOf = (address) => {
    const segment = segments.find(
      (each) => each.type === PT_LOAD && address >= each.address && address < each.address + each.bytes,
    );
    if (!segment) throw new Problem(`${name}: the address ${address} is in none of its segments`);
    return address - segment.address + segment.offset;
  };
  const dynamic = segments.find(({ type }) => type === PT_DYNAMIC);
  /** @type {Map<number, number[]>} */
  const entries = new Map();
  for (let at = dynamic?.offset ?? 0; at < (dynamic ? dynamic.offset + dynamic.bytes : 0); at += 16) {
    const tag = u64(at);
    if (tag === 0) break;
    entries.set(tag, [...(entries.get(tag) ?? []), u64(at + 8)]);
  }
  const [DT_NEEDED, DT_STRTAB, DT_VERNEED, DT_VERNEEDNUM] = [1, 5, 0x6ffffffe, 0x6fffffff];
  const strings = entries.get(DT_STRTAB)?.[0];
  /** @param {number} index */
  const string = (index) => {
    const start = offsetOf(strings ?? 0) + index;
    return bytes.toString('latin1', start, bytes.indexOf(0, start));
  };
  /** @type {Set<string>} */
  const versions = new Set();
  let need = entries.has(DT_VERNEED) ? offsetOf(entries.get(DT_VERNEED)?.[0] ?? 0) : 0;
  for (let left = entries.get(DT_VERNEEDNUM)?.[0] ?? 0; left > 0; left -= 1) {
    let version = need + bytes.readUInt32LE(need + 8);
    for (let more = bytes.readUInt16LE(need + 2); more > 0; more -= 1) {
      versions.add(string(bytes.readUInt32LE(version + 8)));
      version += bytes.readUInt32LE(version + 12);
    }
    need += bytes.readUInt32LE(need + 12);
  }
  return {
    processor: processorOf(bytes.readUInt16LE(18)),
    libraries: (entries.get(DT_NEEDED) ?? []).map(string),
    versions: [...versions].toSorted(),
  };
}
