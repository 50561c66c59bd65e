// npm run docs: the tables of docs/configuration.md, from the form (js/config-schema.js). What the form has no room for, and the
// keys that it does not have, stand here.
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { getConfigSchema } from '../../js/config-schema.js';
import { Problem, program, root } from './lib.mjs';

const PAGE = path.join(root, 'docs', 'configuration.md');
const BEGIN =
  '<!-- Written by `npm run docs` from js/config-schema.js and tools/dev/configuration.mjs; do not edit. -->';
const END = '<!-- The end of what is written. -->';

/** Keys that are not in the form, mostly because Paperclip's own form has them: names, default, meaning. */
const OTHERS = [
  ['`model`', "the CLI's", 'Claude model id.'],
  ['`effort`, `thinkingEffort`', "the CLI's", '`--effort`; the second is another name of the first.'],
  [
    '`instructionsFilePath`',
    '',
    'Markdown file below `PAPERCLIP_HOME`, at most 1 MiB, appended to the system prompt.',
  ],
  [
    '`promptTemplate`, `bootstrapPromptTemplate`',
    '"You are agent …"',
    'The prompt; the second for new sessions only.',
  ],
  [
    '`dangerouslySkipPermissions`',
    'true',
    'Let Claude use tools without asking: a pod has no one to answer a permission prompt.',
  ],
  ['`extraArgs`', '', 'Appended to the `claude` command.'],
  ['`env`', '', 'Variables that win over inherited ones.'],
  ['`cwd`', '`/paperclip`', 'Working directory when the run has no workspace. An absolute path.'],
  ['`timeoutSec`', '0', 'Time limit of a run in seconds. 0: none.'],
  ['`graceSec`', '60', 'How much longer than `timeoutSec` the end of a run is waited for.'],
  [
    '`secretRef`',
    '`paperclip-secrets`',
    'The Secret with API keys that the environment test looks for; no run reads it.',
  ],
];

/** What is said of a key beyond its hint in the form. @type {Record<string, string>} */
const MORE = {
  maxTurnsPerRun: 'Without this key there is no limit.',
  serviceAccountName: "Not that of Paperclip's own pod.",
  kubeconfig: 'A file that agents cannot write; its current context is used.',
  'resources.requests.cpu': 'A nested `resources` object is read too.',
  nodeSelector: 'An object or JSON text works as well.',
  tolerations: 'An array works as well.',
  labels:
    'An object or JSON text works as well. Keys under `paperclip.io/` and `app.kubernetes.io/` are reserved.',
  podAnnotations: 'An object or JSON text works as well.',
  imagePullSecrets: 'An array works as well. Those of the Paperclip pod stay.',
  hostShutdown: 'See [below](#a-restart-of-paperclip).',
  announceHarness: 'See [below](#a-restart-of-paperclip).',
  claudeHome: 'See [below](#sessions-and-credentials).',
  imagePullGraceSec: 'Without this key at most `podStartTimeoutSec`.',
  resultGraceSec:
    'The result counts as an event. Raise it for agents that leave background work which prints nothing (builds, background agents): it is ended with the Job.',
  podTemplate: 'YAML or JSON text, or an object ([pod](pod.md)), as far as it is [granted](security.md).',
  mcpServers: 'See [below](#mcp-servers).',
  runAsUser: 'Never root.',
  inheritScheduling: 'The inherited affinity goes with it.',
  testWithJob: 'See [below](#the-environment-test).',
};

/** The part of the page that is written. */
function tables() {
  const { fields } = getConfigSchema();
  const keys = new Set(fields.map(({ key }) => key));
  const strangers = Object.keys(MORE).filter((key) => !keys.has(key));
  if (strangers.length > 0) throw new Problem(`not in the form: ${strangers.join(', ')}`);
  const rows = fields.map((field) => {
    const { key, label, hint } = field;
    const values = (field.type === 'select' ? field.options : []).map(({ value }) => value);
    const listed = values.filter(Boolean).map((value) => `\`${value}\``);
    const choice = listed.length > 0 && `Values: ${listed.join(', ')}.`;
    return [
      `\`${key}\``,
      label,
      String(field.default ?? ''),
      [hint, choice, MORE[key]].filter(Boolean).join(' '),
    ];
  });
  return [
    '## In the form of an agent',
    table(['key', 'in the form', 'default', 'meaning'], rows),
    "## Fields of Paperclip's own form, and keys without a field",
    table(['key', 'default', 'meaning'], OTHERS),
  ].join('\n\n');
}

/** @param {string[]} head @param {string[][]} rows */
function table(head, rows) {
  /** @param {string[]} cells */
  const line = (cells) => `| ${cells.map((cell) => cell.replaceAll('|', String.raw`\|`)).join(' | ')} |`;
  return [line(head), `|${'---|'.repeat(head.length)}`, ...rows.map(line)].join('\n');
}

/**
 * The page with its tables written anew.
 *
 * @param {string} page
 */
export function withTables(page) {
  const [before = '', rest] = page.split(BEGIN);
  const after = rest?.split(END)[1];
  if (after === undefined) {
    throw new Problem('docs/configuration.md has lost the marks of what is written in it');
  }
  return `${before}${BEGIN}\n\n${tables()}\n\n${END}${after}`;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  await program('node tools/dev/configuration.mjs', {}, async () => {
    writeFileSync(PAGE, withTables(readFileSync(PAGE, 'utf8')));
  });
}
