import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { describe, expect, it } from 'vitest';

import { billOfMaterials, linkedCrates, notice } from '../../tools/dev/crates.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const { version } = JSON.parse(readFileSync(`${root}package.json`, 'utf8'));

/** @param {string[]} args */
const release = (...args) =>
  spawnSync('node', ['tools/dev/release.mjs', ...args], { cwd: root, encoding: 'utf8' });

describe('a release', () => {
  it('needs_a_tag_of_its_version', () => {
    expect(release('notes', 'v0.0.1')).toMatchObject({
      status: 1,
      stderr: `the tag is v0.0.1, but package.json has ${version}\n`,
    });
  });

  it('has_its_section_of_the_changelog_for_notes', () => {
    const { status, stdout } = release('notes', `v${version}`);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^### Added\n\n- /);
  });

  it('of_an_unknown_platform_is_refused', () => {
    const { status, stderr } = release('addon', 'linux-x64-gnu2');
    expect([status, stderr]).toEqual([
      1,
      expect.stringMatching(/^linux-x64-gnu2 is none of linux-x64-gnu, /),
    ]);
  });
});

describe('the linked crates', () => {
  const crates = linkedCrates();
  const names = crates.map(({ name }) => name);

  it('are_those_of_the_addon', () => {
    expect(names).toEqual(expect.arrayContaining(['kube', 'napi', 'rustls', 'ring', 'serde_json', 'tokio']));
    const ofBuildsAndTests = new Set(['syn', 'napi-build', 'napi-derive', 'divan', 'embedded-cluster']);
    expect(names.filter((name) => ofBuildsAndTests.has(name))).toEqual([]);
  });

  it('all_have_a_licence_in_notice_and_bill', () => {
    expect(crates.filter(({ license }) => !license)).toEqual([]);
    const text = notice(crates);
    const { components } = billOfMaterials(version, crates, { picocolors: '1.1.1' });
    expect(components).toHaveLength(crates.length + 1);
    for (const { name, version: of, license } of crates) {
      expect(text).toContain(`${name} ${of}: ${license}`);
      expect(components).toContainEqual(
        expect.objectContaining({ purl: `pkg:cargo/${name}@${of}`, licenses: [{ expression: license }] }),
      );
    }
    expect(text).toContain('Permission is hereby granted');
  });
});
