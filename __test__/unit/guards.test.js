// What is said in several places is the same in all of them: configuration keys, error codes and permissions. A
// difference that is meant stands here with its reason.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { describe, expect, it } from 'vitest';

import { getConfigSchema } from '../../js/config-schema.js';
import { agentConfigurationDoc } from '../../js/doc.js';
import { withTables } from '../../tools/dev/configuration.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** @param {string} file */
const read = (file) => readFileSync(path.join(root, file), 'utf8');

/**
 * The part of a text from a pattern to the next one, which must both be there.
 *
 * @param {string} text
 * @param {RegExp} from
 * @param {RegExp} to
 */
function part(text, from, to) {
  const start = text.search(from);
  expect(start, String(from)).toBeGreaterThanOrEqual(0);
  const rest = text.slice(start + 1);
  const end = rest.search(to);
  expect(end, String(to)).toBeGreaterThan(0);
  return rest.slice(0, end);
}

/** @param {string} text */
const backticked = (text) => [...text.matchAll(/`([^`]+)`/g)].map(([, word]) => word);

/**
 * The backticked words in the first column of the table of a page of docs/.
 *
 * @param {string} page
 */
function firstColumn(page) {
  const cells = [...read(`docs/${page}.md`).matchAll(/^\| ([^|]+) \|/gm)].map(([, cell]) => cell);
  return cells.flatMap((cell) => {
    /** @type {string[]} */
    const words = [];
    // `.memory` after `resources.requests.cpu` is `resources.requests.memory`.
    for (const word of backticked(cell)) {
      words.push(word.startsWith('.') ? (words.at(-1) ?? '').replace(/\.[^.]*$/, word) : word);
    }
    return words;
  });
}

/**
 * Asserts that two lists differ in what is listed here and in nothing else.
 *
 * @param {string[]} left
 * @param {string[]} right
 * @param {{ onlyLeft?: Record<string, string>; onlyRight?: Record<string, string> }} reasons by name
 */
function expectSame(left, right, { onlyLeft = {}, onlyRight = {} } = {}) {
  expect(left.length).toBeGreaterThan(10);
  expect(left.filter((name) => !right.includes(name)).toSorted()).toEqual(Object.keys(onlyLeft).toSorted());
  expect(right.filter((name) => !left.includes(name)).toSorted()).toEqual(Object.keys(onlyRight).toSorted());
}

describe('configuration keys', () => {
  const declared = part(read('src/request/config.rs'), /^pub.* const CONFIG_KEYS/m, /^\];$/m);
  const rust = [...declared.matchAll(/"([\w.]+)"/g)].map(([, key]) => key);
  const inJavaScript = {
    promptTemplate: 'rendered by the host, js/prepare.js',
    bootstrapPromptTemplate: 'rendered by the host, js/prepare.js',
  };

  it('are the same in config.rs and in docs/configuration.md', () => {
    expectSame(rust, firstColumn('configuration'), {
      onlyLeft: { resources: 'in the row of the flat keys' },
      onlyRight: inJavaScript,
    });
  });

  it('docs_configuration_is_what_npm_run_docs_writes', () => {
    const page = read('docs/configuration.md');
    expect(page).toBe(withTables(page));
    const { label } = getConfigSchema().fields[0] ?? {};
    expect(withTables(page.replace(`| ${label} |`, '| An older label |'))).toBe(page);
    expect(() => withTables(page.replaceAll('<!--', ''))).toThrow(/has lost the marks/);
  });

  it('are the same in config.rs and in the documentation that agents read', () => {
    const documented = [...agentConfigurationDoc.matchAll(/^- ((?:`[\w.]+`(?:, )?)+) \(\w+(?:\[\])?\):/gm)];
    const names = documented.flatMap(([, keys]) => backticked(keys));
    expectSame(rust, names, {
      onlyLeft: {
        thinkingEffort: 'in the line of effort',
        'resources.requests.cpu': 'in the line of resources',
        'resources.requests.memory': 'in the line of resources',
        'resources.limits.cpu': 'in the line of resources',
        'resources.limits.memory': 'in the line of resources',
      },
      onlyRight: inJavaScript,
    });
    expect(agentConfigurationDoc).toContain('`thinkingEffort`');
    expect(agentConfigurationDoc).toContain('`resources.limits.cpu`');
  });

  it('are the same in config.rs and in the form', () => {
    const form = getConfigSchema().fields.map(({ key }) => key);
    expectSame(rust, form, {
      onlyLeft: {
        model: "a field of the host's own form",
        effort: "a field of the host's own form",
        thinkingEffort: "a field of the host's own form",
        instructionsFilePath: "a field of the host's own form",
        dangerouslySkipPermissions: "a field of the host's own form",
        extraArgs: "a field of the host's own form",
        env: "a field of the host's own form",
        cwd: "a field of the host's own form",
        timeoutSec: "a field of the host's own form",
        graceSec: "a field of the host's own form",
        resources: 'the form has the flat keys',
        secretRef: 'of the environment test only, and not in the form of 0.1.49',
      },
    });
  });
});

describe('error codes', () => {
  const table = part(read('src/outcome/code.rs'), /^error_codes! \{$/m, /^\}$/m);
  const codes = [...table.matchAll(/ = "([a-z0-9_]+)",/g)].map(([, code]) => code);

  it('are the same in code.rs and in docs/results.md', () => {
    expectSame(codes, firstColumn('results'));
  });

  it('are all in the contract', () => {
    const contract = backticked(read('docs/contract.md'));
    expect(codes.filter((code) => !contract.includes(code))).toEqual([]);
  });
});

describe('permissions', () => {
  it('are the same in the environment test and in the Role', () => {
    const rows = read('src/run/preflight.rs').matchAll(
      /permission\(\s*"k8s_rbac_\w+",\s*"(\w*)",\s*"([\w/]+)",\s*"(\w+)",\s*"[^"]+"/g,
    );
    const tested = [...rows].map(([, group, resource, verb]) => `${group}/${resource} ${verb}`);
    const role = read('deploy/base/role.yaml').matchAll(
      /apiGroups: \[(.*)\]\n\s+resources: \[(.*)\]\n\s+verbs: \[(.*)\]/g,
    );
    /** @param {string} list */
    const items = (list) => list.split(',').map((item) => item.trim().replaceAll(/["']/g, ''));
    const granted = [...role].flatMap(([, groups, resources, verbs]) =>
      items(groups).flatMap((group) =>
        items(resources).flatMap((resource) => items(verbs).map((verb) => `${group}/${resource} ${verb}`)),
      ),
    );
    expectSame(tested, granted, {
      onlyRight: {
        '/pods get': 'the test reads the own pod first; without it the row is k8s_api_unreachable',
      },
    });
  });

  it('are shown in docs/permissions.md as the manifest has them', () => {
    const [, shown] = /```yaml\n([\s\S]*?)```/.exec(read('docs/permissions.md')) ?? [];
    expect(read('deploy/base/role.yaml').replace(/^#.*\n/, '')).toBe(shown);
  });
});

describe('operator switches', () => {
  const source = ['grants.rs', 'mod.rs'].map((file) => read(`src/request/${file}`)).join('\n');
  const switches = [...source.matchAll(/: &str = "(PAPERCLIP_K8S_\w+)"/g)].map(([, name]) => name);

  it('are the same in the code and in the table of docs/security.md', () => {
    const documented = firstColumn('security').filter((name) => name.startsWith('PAPERCLIP_K8S_'));
    expect(switches.length).toBeGreaterThan(8);
    expect(documented.toSorted()).toEqual(switches.toSorted());
  });

  it('are named in docs/configuration.md', () => {
    expect(switches.filter((name) => !read('docs/configuration.md').includes(`\`${name}\``))).toEqual([]);
  });

  it('every key of the configuration is in docs/security.md', () => {
    const page = backticked(read('docs/security.md'));
    const grouped = /Sec$|^thinkingEffort$|^resources\.|[pP]romptTemplate$/;
    const keys = firstColumn('configuration').filter((key) => !grouped.test(key));
    expect(keys.filter((key) => !page.includes(key))).toEqual([]);
  });
});

describe('promises', () => {
  const page = read('docs/security.md');
  const [, table = ''] = /^## Which test shows it$([\s\S]*)/m.exec(page) ?? [];
  const rows = [...table.matchAll(/^\| ([^|]+) \| ([^|]+) \|$/gm)]
    .slice(1)
    .map(([, promise, tests]) => ({ promise, tests }));

  it('each has tests, and they exist', () => {
    expect(rows.length).toBeGreaterThan(30);
    const named = rows.flatMap(({ promise, tests = '' }) =>
      tests.split('; ').flatMap((inFile) => {
        const [file = '', ...names] = backticked(inFile);
        expect(names.length, promise).toBeGreaterThan(0);
        return names.map((name) => ({ file, name }));
      }),
    );
    // As a name is written: of a function, or in quotes.
    const has = ({ file, name }) =>
      [`fn ${name}(`, `'${name}`, `\`${name}`, `"${name}`].some((way) => read(file).includes(way));
    expect(named.filter((test) => !has(test))).toEqual([]);
  });

  it('have the numbers of the code', () => {
    const all = `${read('SECURITY.md')}\n${page}`.replaceAll(/\s+/g, ' ');
    for (const [file, line, words] of [
      ['src/stream/lines.rs', 'MOST_LINE: usize = 16 * 1024 * 1024', 'Of a line 16 MiB are kept'],
      ['src/stream/json.rs', 'MOST_VALUES: usize = 32 * 1024', '32,768 values'],
      ['src/stream/json.rs', 'MOST_TEXT: usize = 4 * MOST_STRING', '4 MiB of text'],
      ['src/run/log/sink.rs', 'SLOTS: u32 = 16', 'at most 16 MiB of log'],
      [
        'src/run/timing.rs',
        'SHUTDOWN_LIMIT: Duration = Duration::from_secs(20)',
        'a shutdown takes 20 s at most',
      ],
      ['src/run/timing.rs', 'FILES_LIMIT: Duration = Duration::from_secs(60)', 'within 60 s'],
      ['src/run/shared.rs', 'MAX_INSTRUCTIONS: u64 = 1 << 20', 'A regular file of at most 1 MiB'],
      ['src/run/start/bundle.rs', 'MAX_ENTRIES: usize = 100_000', '100,000 files and folders'],
      ['src/run/start/bundle.rs', 'MAX_BYTES: u64 = 1 << 30', 'and 1 GiB'],
      ['src/cluster/mod.rs', 'MOST_OBJECTS: usize = 10_000', 'at most 10,000 objects'],
      ['src/cluster/mod.rs', 'MOST_WATCHED: usize = 20_000', 'more than 20,000 Jobs or pods'],
      ['src/manifest/server_only.rs', 'LEAST_SECRET: usize = 12', 'less than 12 characters'],
    ]) {
      expect(read(file ?? ''), words).toContain(line);
      expect(all).toContain(words);
    }
  });
});

describe('functions that JavaScript calls', () => {
  it('give a panic as an exception, each of them', () => {
    const files = ['src/node/mod.rs', 'src/node/mailbox.rs', 'src/compat/exports.rs'];
    const functions = files.flatMap((file) => {
      const calls = read(file).matchAll(
        /^ *#\[napi(?:\((?<how>.*)\))?\](?:\n *#\[.*)*\n *pub fn (?<name>\w+)/gm,
      );
      return [...calls].map(({ groups }) => ({ how: groups?.how, name: groups?.name }));
    });
    expect(functions.length).toBeGreaterThan(30);
    // Runs once, when the addon is loaded, and sets the logging up.
    const others = functions.filter(({ how }) => how !== 'module_exports');
    expect(others.filter(({ how }) => !how?.includes('catch_unwind'))).toEqual([]);
  });
});
