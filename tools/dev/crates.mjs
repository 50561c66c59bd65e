// The crates that are linked into the shipped addon, from cargo's own metadata.
import { spawnSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';

import { Problem, root } from './lib.mjs';

const NAME = 'paperclip-adapter-claude-k8s';

/**
 * @typedef {object} Crate
 * @property {string} name
 * @property {string} version
 * @property {string} license an SPDX expression
 * @property {string} repository empty if the crate names none
 * @property {string} folder of its source on this machine
 */

/**
 * The crates of the default features, on any platform, without those of tests and builds.
 *
 * @returns {Crate[]} by name
 */
export function linkedCrates() {
  const { status, stdout, stderr } = spawnSync('cargo', ['metadata', '--format-version', '1', '--locked'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 64 << 20,
  });
  if (status !== 0) throw new Problem(`cargo metadata failed:\n${stderr}`);
  const { packages, resolve } = JSON.parse(stdout);
  const byId = new Map(packages.map((each) => [each.id, each]));
  const nodes = new Map(resolve.nodes.map((node) => [node.id, node]));
  const start = packages.find(({ name, source }) => name === NAME && source === null).id;
  // What a procedural macro needs is linked into the compiler.
  const isMacro = (id) => byId.get(id).targets.some(({ kind }) => kind.includes('proc-macro'));
  const linked = new Set([start]);
  for (const id of linked) {
    for (const { pkg, dep_kinds: kinds } of nodes.get(id).deps) {
      if (kinds.some(({ kind }) => kind === null) && !isMacro(pkg)) linked.add(pkg);
    }
  }
  linked.delete(start);
  return [...linked]
    .map((id) => byId.get(id))
    .map(({ name, version, license, repository, manifest_path: manifest }) => ({
      name,
      version,
      license: license?.replaceAll('/', ' OR ') ?? '',
      repository: repository ?? '',
      folder: path.dirname(manifest),
    }))
    .toSorted((a, b) => a.name.localeCompare(b.name) || a.version.localeCompare(b.version));
}

/** The licence texts of a crate, by file name. @param {Crate} crate @returns {[string, string][]} */
export function licenseTexts({ folder }) {
  return readdirSync(folder)
    .filter((name) => /^(licen[cs]e|copying|notice|copyright|unlicense)/i.test(name))
    .toSorted()
    .flatMap((name) => {
      try {
        return [[name, readFileSync(path.join(folder, name), 'utf8').trim()]];
      } catch {
        return []; // a folder of that name
      }
    });
}

/**
 * NOTICE: each crate with its licence; a text that several have stands there once.
 *
 * @param {Crate[]} crates
 */
export function notice(crates) {
  /** @type {Map<string, string[]>} */
  const users = new Map();
  for (const crate of crates) {
    for (const [, text] of licenseTexts(crate)) {
      users.set(text, [...(users.get(text) ?? []), `${crate.name} ${crate.version}`]);
    }
  }
  const list = crates.map(({ name, version, license, repository }) =>
    `${name} ${version}: ${license || 'see its text'} ${repository}`.trim(),
  );
  const texts = [...users].map(([text, names]) => `${'-'.repeat(80)}\n${names.join(', ')}\n\n${text}`);
  return `The addon of ${NAME} contains Rust's standard library (MIT OR Apache-2.0, https://github.com/rust-lang/rust) and these crates:\n\n${list.join('\n')}\n\n${texts.join('\n\n')}\n`;
}

/**
 * A CycloneDX 1.6 bill of materials: the crates in the addon and what npm installs.
 *
 * @param {string} version of this package
 * @param {Crate[]} crates
 * @param {Record<string, string>} dependencies name → version of npm packages
 */
export function billOfMaterials(version, crates, dependencies) {
  const component = (type, name, of, purl, license) => ({
    type,
    name,
    version: of,
    purl,
    'bom-ref': purl,
    ...(license && { licenses: [{ expression: license }] }),
  });
  return {
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: { component: component('library', NAME, version, `pkg:npm/${NAME}@${version}`, 'MIT') },
    components: [
      ...crates.map(({ name, version: of, license }) =>
        component('library', name, of, `pkg:cargo/${name}@${of}`, license),
      ),
      ...Object.entries(dependencies).map(([name, of]) =>
        component('library', name, of, `pkg:npm/${name}@${of}`),
      ),
    ],
  };
}
