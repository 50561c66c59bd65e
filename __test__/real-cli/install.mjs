// The real claude CLI from npm, in the version of package-lock.json here, kept in the cache with the SDK that MCP servers of
// the specs are made with.
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { once } from '../../tools/kubernetes/cache.mjs';
import { output } from '../../tools/kubernetes/command.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const SCOPE = '@anthropic-ai';

/** The version of the CLI. */
export const version = JSON.parse(readFileSync(path.join(here, 'package.json'), 'utf8')).dependencies[
  `${SCOPE}/claude-code`
];

/** @returns {Promise<string>} the CLI's program for this machine, out of its platform package */
export async function installClaude() {
  return programIn(await install());
}

/** @returns {Promise<string>} the folder of the SDK for MCP */
export async function installMcpSdk() {
  return path.join(await install(), 'node_modules', '@modelcontextprotocol', 'sdk');
}

async function install() {
  const lock = readFileSync(path.join(here, 'package-lock.json'));
  const digest = createHash('sha256').update(lock).digest('hex').slice(0, 8);
  return once(`claude-code-${version}-${digest}`, async (into) => {
    for (const file of ['package.json', 'package-lock.json'])
      copyFileSync(path.join(here, file), path.join(into, file));
    // Its install script only makes a shorter path to the program.
    await output(
      'npm',
      ['install', '--no-save', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'],
      { cwd: into },
    );
    programIn(into);
  });
}

function programIn(dir) {
  const scope = path.join(dir, 'node_modules', SCOPE);
  const program = readdirSync(scope)
    .filter((name) => name.startsWith('claude-code-'))
    .map((name) => path.join(scope, name, 'claude'))
    .find((file) => existsSync(file));
  if (!program)
    throw new Error(`${SCOPE}/claude-code ${version} has no package for this platform in ${scope}`);
  return program;
}
