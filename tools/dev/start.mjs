// npm start: one agent run from end to end, on an embedded cluster, as the host would do it.
import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import path from 'node:path';

import {
  Problem,
  buildAddon,
  buildSimulator,
  checkPrerequisites,
  installDependencies,
  program,
  root,
  step,
  wholeNumber,
} from './lib.mjs';

const USAGE = `npm start -- [options]
  --scenario NAME   what the fake CLI does (default: success)
  --list            list the scenarios
  --claude          run the real claude CLI (on the PATH, with ANTHROPIC_API_KEY set)
  --prompt TEXT     the agent's prompt
  --port N          port of the embedded cluster on 127.0.0.1 (default: a free one)
  --raw             print the stream-json lines as they are`;

const OPTIONS = /** @type {const} */ ({
  scenario: { type: 'string', default: 'success' },
  list: { type: 'boolean' },
  claude: { type: 'boolean' },
  prompt: { type: 'string' },
  port: { type: 'string', default: '0' },
  raw: { type: 'boolean' },
});

await program(USAGE, { options: OPTIONS }, async ({ values: options }) => {
  const port = wholeNumber('--port', options.port, { most: 65_535 });
  checkPrerequisites();
  const claude = options.claude ? realClaude() : undefined;
  await installDependencies();
  const programs = await buildSimulator();
  if (options.list) {
    process.stdout.write(spawnSync(path.join(programs, 'claude'), ['--list-scenarios']).stdout);
    return 0;
  }
  if (!claude) checkScenario(programs, options.scenario);
  await buildAddon();

  const { startCluster } = await import('../simulator/cluster.mjs');
  step('Starting the embedded cluster');
  const cluster = await startCluster({
    port,
    binDirs: claude ? [path.dirname(claude)] : [programs],
  }).catch((error) => {
    throw new Problem(error.message);
  });
  console.log(`  ${cluster.url} (kubectl --kubeconfig ${cluster.kubeconfig} get pods)`);
  try {
    return await oneRun(cluster, options);
  } finally {
    await cluster.stop();
  }
});

function realClaude() {
  const found = spawnSync('sh', ['-c', 'command -v claude'], { encoding: 'utf8' }).stdout.trim();
  if (!found)
    throw new Problem('--claude: no `claude` on the PATH (npm install -g @anthropic-ai/claude-code).');
  if (!process.env.ANTHROPIC_API_KEY) throw new Problem('--claude: ANTHROPIC_API_KEY is not set.');
  return found;
}

function checkScenario(programs, name) {
  const listed = spawnSync(path.join(programs, 'claude'), ['--list-scenarios'], { encoding: 'utf8' }).stdout;
  const names = listed
    .split('\n')
    .map((line) => line.split(/\s/)[0])
    .filter(Boolean);
  if (!names.includes(name)) {
    throw new Problem(`--scenario ${name}: unknown; there are ${names.join(', ')}.`);
  }
}

/** What the host does for one run: the environment it runs in, the context it passes, the result it takes. */
async function oneRun(cluster, options) {
  Object.assign(process.env, {
    HOSTNAME: 'paperclip-0',
    PAPERCLIP_NAMESPACE: cluster.namespace,
    PAPERCLIP_HOME: path.join(cluster.dir, 'paperclip-home'),
  });
  const adapter = (await import(path.join(root, 'index.js'))).createServerAdapter();
  const { printClaudeStreamEvent } = await import(path.join(root, 'js', 'cli.js'));

  const abort = new AbortController();
  const onInterrupt = () => {
    step('Cancelling: deleting the Job and waiting for its pod to go');
    abort.abort();
  };
  process.once('SIGINT', onInterrupt);
  process.once('SIGTERM', onInterrupt);

  step('Running one agent run');
  const began = Date.now();
  const result = await adapter.execute({
    runId: randomUUID(),
    agent: { id: 'demo-agent', companyId: 'demo-company', name: 'Demo', adapterType: adapter.type },
    runtime: { sessionId: null, sessionParams: null, sessionDisplayId: null, taskKey: null },
    config: {
      kubeconfig: cluster.kubeconfig,
      env: options.claude
        ? { ANTHROPIC_API_KEY: process.env.ANTHROPIC_API_KEY }
        : { CLAUDE_STAND_IN_SCENARIO: options.scenario },
      ...(options.prompt ? { promptTemplate: options.prompt } : {}),
    },
    context: { taskId: 'demo-task', wakeReason: 'on_demand' },
    signal: abort.signal,
    onLog: async (stream, chunk) => {
      for (const line of chunk.split('\n').slice(0, -1)) {
        if (options.raw || !line.startsWith('{')) (stream === 'stderr' ? console.error : console.log)(line);
        else printClaudeStreamEvent(line, false);
      }
    },
  });
  process.removeListener('SIGINT', onInterrupt);
  process.removeListener('SIGTERM', onInterrupt);

  const { resultJson: _resultJson, ...shown } = result;
  step(`Result after ${((Date.now() - began) / 1000).toFixed(1)} s`);
  console.log(JSON.stringify(shown, null, 2));
  const left = await cluster.get(`/apis/batch/v1/namespaces/${cluster.namespace}/jobs`);
  console.log(`Jobs left in the cluster: ${left.items.length}`);
  // A scenario that is meant to fail has succeeded when its failure is reported: only a cancel is another exit code.
  return abort.signal.aborted ? 130 : 0;
}
