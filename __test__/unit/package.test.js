import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, readdirSync, symlinkSync } from 'node:fs';
import { builtinModules } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { describe, expect, it } from 'vitest';

import { copyToVersion } from '../../tools/dev/prepack.mjs';
import { temporaryFolder } from '../support/temporary.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const read = (file) => readFileSync(path.join(root, file), 'utf8');
const manifest = JSON.parse(read('package.json'));

/** The files that `npm publish` would send, without running any script. */
const packed = (() => {
  const output = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const report = JSON.parse(output);
  const [tarball] = Array.isArray(report) ? report : Object.values(report);
  return tarball.files.map((file) => file.path).toSorted();
})();

/** What `npm run build:addon` writes; a fresh clone has it already. */
const GENERATED = ['js/generated/binding.d.ts'];

describe('package.json', () => {
  it('replaces the existing package of this name', () => {
    expect(manifest).toMatchObject({
      name: 'paperclip-adapter-claude-k8s',
      license: 'MIT',
      type: 'module',
      engines: { node: '>=20' },
      paperclip: { adapterUiParser: expect.stringMatching(/^1\.\d+\.\d+$/) },
    });
  });

  it('exports four subpaths, to Node and to TypeScript', () => {
    expect(Object.keys(manifest.exports)).toEqual(['.', './server', './ui-parser', './cli']);
    for (const [subpath, target] of Object.entries(manifest.exports)) {
      expect(Object.keys(target), subpath).toEqual(['types', 'import', 'default']);
      expect(target.default).toBe(target.import);
      for (const file of Object.values(target)) expect(packed, subpath).toContain(file.replace('./', ''));
    }
  });

  it('depends on one package and leaves one to the host', () => {
    expect(Object.keys(manifest.dependencies)).toEqual(['picocolors']);
    expect(manifest.peerDependencies).toEqual({ '@paperclipai/adapter-utils': '>=2026.403.0' });
    // `prepare` runs in checkouts alone, never where the published package is installed.
    for (const hook of ['preinstall', 'install', 'postinstall']) {
      expect(manifest.scripts, hook).not.toHaveProperty(hook);
    }
  });

  it('has the version of the crate', () => {
    const [, version] = /^version = "(.+)"$/m.exec(read('Cargo.toml')) ?? [];
    expect(version).toBe(manifest.version);
  });

  it('has a lock file without download addresses', () => {
    expect(read('package-lock.json')).not.toMatch(/"resolved"|https?:\/\/[^"]*\.tgz/);
  });
});

describe('the published files', () => {
  it('are the package and nothing else', () => {
    const strangers = packed.filter(
      (file) =>
        !/^index\.(js|d\.ts)$/.test(file) &&
        !/^js\/[\w./-]+\.(js|d\.ts)$/.test(file) &&
        !/^js\/ui-parser\.(cjs|d\.cts)$/.test(file) &&
        !/^js\/generated\/paperclip-adapter-claude-k8s\.[\w-]+\.node$/.test(file) &&
        !['package.json', 'README.md', 'LICENSE', ...GENERATED].includes(file),
    );
    expect(strangers).toEqual([]);
    expect(packed).toEqual(expect.arrayContaining(['LICENSE', 'package.json', 'index.js']));
  });

  it('import only each other, Node and declared packages', () => {
    const declared = [...Object.keys(manifest.dependencies), ...Object.keys(manifest.peerDependencies)];
    for (const file of packed.filter((name) => /\.(js|cjs)$/.test(name) && !GENERATED.includes(name))) {
      const code = read(file).replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');
      for (const [, specifier] of code.matchAll(
        /\b(?:from|import|require|import\()\s*\(?\s*['"]([^'"]+)['"]/g,
      )) {
        if (specifier.startsWith('.')) {
          const target = path.posix.join(path.posix.dirname(file), specifier);
          expect([...packed, ...GENERATED], `${file} → ${specifier}`).toContain(target);
        } else if (!specifier.startsWith('node:')) {
          expect(builtinModules, `${file}: write node:${specifier}`).not.toContain(specifier);
          expect(
            declared.some((name) => specifier === name || specifier.startsWith(`${name}/`)),
            `${file} → ${specifier}`,
          ).toBe(true);
        }
      }
    }
  });
});

describe('a packed version', () => {
  it('has a copy of the modules under its own name', () => {
    const folder = temporaryFolder('packed');
    for (const file of ['package.json', 'index.js', 'js']) {
      cpSync(path.join(root, file), path.join(folder, file), { recursive: true });
    }
    copyToVersion(folder);
    const copied = packed.filter((file) => /^js\/[^/]+\.c?js$/.test(file)).map((file) => file.slice(3));
    expect(readdirSync(path.join(folder, `v${manifest.version}`)).toSorted()).toEqual(copied);
  });

  it('leaves no such copy in a checkout, which would hide changes', () => {
    expect(readdirSync(root).filter((name) => /^v\d|^NOTICE$/.test(name))).toEqual([]);
  });
});

describe('Node’s own resolution', () => {
  it('refuses every other subpath', () => {
    const script = `
      for (const subpath of ['package.json', 'js/session.js', 'dist/index.js', 'server.js', 'binding.cjs']) {
        try {
          await import('paperclip-adapter-claude-k8s/' + subpath);
          console.log(subpath);
        } catch (error) {
          if (error.code !== 'ERR_PACKAGE_PATH_NOT_EXPORTED') console.log(subpath, error.code);
        }
      }`;
    const printed = execFileSync(process.execPath, ['--input-type=module', '--eval', script], {
      cwd: root,
      encoding: 'utf8',
    });
    expect(printed).toBe('');
  });
});

describe('a checkout without an addon', () => {
  const checkout = temporaryFolder('checkout');
  const programs = path.join(checkout, 'bin');
  mkdirSync(programs);
  for (const file of ['package.json', 'index.js', 'js', 'tools/dev']) {
    const isAddon = (/** @type {string} */ name) => name.endsWith('.node');
    cpSync(path.join(root, file), path.join(checkout, file), {
      recursive: true,
      filter: (name) => !isAddon(name),
    });
  }
  // Neither cargo nor cc.
  symlinkSync(process.execPath, path.join(programs, 'node'));
  symlinkSync('/bin/sh', path.join(programs, 'sh'));

  /**
   * Runs one of npm's hooks in the checkout.
   *
   * @param {string} hook
   * @param {string} startedIn the folder in which npm was called
   */
  const run = (hook, startedIn) =>
    spawnSync('node', ['tools/dev/prepack.mjs'], {
      cwd: checkout,
      env: { PATH: programs, npm_lifecycle_event: hook, INIT_CWD: startedIn },
      encoding: 'utf8',
    });

  it.each([
    ['prepack', 'npm pack', checkout],
    ['prepare', 'npm install in another project', root],
  ])('cannot be packed without Rust: %s of %s', (hook, _command, startedIn) => {
    const { status, stderr } = run(hook, startedIn);
    expect([status, stderr]).toEqual([1, expect.stringMatching(/^cargo was not found: [^\n]+\n$/)]);
  });

  it('is left alone by npm ci', () => {
    expect(run('prepare', checkout)).toMatchObject({ status: 0, stdout: '', stderr: '' });
  });

  it('runs these hooks', () => {
    expect(manifest.scripts).toMatchObject({
      prepack: 'node tools/dev/prepack.mjs',
      prepare: 'node tools/dev/prepack.mjs',
      postpack: 'node tools/dev/prepack.mjs',
    });
  });
});
