// What an agent configures for itself, and what it has planted on the shared volume.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';

import { createServerAdapter } from '../../../index.js';
import { listenOnLoopback } from '../../support/server.js';
import { environmentOf } from '../../support/host.js';
import { temporaryFolder } from '../../support/temporary.js';
import { INIT, lastResult, print } from './events.js';

const ENDS = print([INIT, lastResult({})]);

/** A folder on the shared volume that an agent can write. */
function planted() {
  const folder = path.join(process.env.PAPERCLIP_HOME ?? '', `agent-${randomUUID()}`);
  mkdirSync(folder, { recursive: true });
  return folder;
}

/** A configuration that must end the run before anything is created; `holds` checks the result. */
const refused = (name, before, config, holds = (/** @type {any} */ _result) => {}) => ({
  name,
  before,
  play: async (host) => {
    const { result, runId } = await host.agent(ENDS, { config: config() });
    assert.equal(result.resultJson?.k8sErrorCode, 'k8s_config_invalid', JSON.stringify(result));
    holds(result);
    await host.assertNothingIsLeft(runId);
  },
});

/** A file that an exec plugin makes, if it runs. */
const proof = path.join(process.env.PAPERCLIP_HOME ?? '', `ran-${randomUUID()}`);

/** A kubeconfig of an agent with these parts of cluster and user. */
function kubeconfigOf({ cluster = {}, user = {} }) {
  const file = path.join(planted(), 'kubeconfig');
  const named = (of) => [{ name: 'a', ...of }];
  writeFileSync(
    file,
    JSON.stringify({
      clusters: named({ cluster: { server: 'https://127.0.0.1:1', ...cluster } }),
      users: named({ user }),
      contexts: named({ context: { cluster: 'a', user: 'a' } }),
      'current-context': 'a',
    }),
  );
  return file;
}

const exec = {
  ...{ apiVersion: 'client.authentication.k8s.io/v1', command: 'touch', args: [proof] },
  interactiveMode: 'Never',
};

/** A kubeconfig that runs a command. */
const runsCommand = () => kubeconfigOf({ user: { exec } });

/** A kubeconfig that leads to a server of the agent's, with these parts, must not be used: the server hears nothing. */
const heard = (name, before, parts, scheme = 'http') => ({
  name,
  before,
  play: async (host) => {
    let connections = 0;
    const server = createServer((socket) => {
      connections += 1;
      socket.on('error', () => {}).end('HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n');
    });
    const at = `${scheme}://127.0.0.1:${await listenOnLoopback(server)}`;
    const { cluster, ...rest } = parts(at);
    const kubeconfig = kubeconfigOf({ cluster: { server: at, ...cluster }, ...rest });
    const { result, runId } = await host.agent(ENDS, { config: { kubeconfig } });
    server.close();
    assert.equal(connections, 0, 'the server of the agent was asked');
    assert.match(JSON.stringify(result), /where agents can write/);
    await host.assertNothingIsLeft(runId);
  },
});

/** A file of the host's own in its home, which is there once. */
function ofTheServer(name) {
  const file = path.join(process.env.PAPERCLIP_HOME ?? '', name);
  mkdirSync(path.dirname(file), { recursive: true });
  if (!existsSync(file)) writeFileSync(file, 'of-the-server\n');
  return file;
}
const notShown = (result) => assert.doesNotMatch(JSON.stringify(result), /of-the-server/);

/** A link on the shared volume. */
function linked(to) {
  const link = path.join(planted(), 'link');
  symlinkSync(to, link);
  return link;
}

function pipe() {
  const file = path.join(planted(), 'pipe');
  execFileSync('mkfifo', [file]);
  return file;
}

const template = (spec) => () => ({ podTemplate: { spec } });
const notRun = () => assert(!existsSync(proof), 'the command has run as the host');

/** @type {import('./index.js').Attack[]} */
export const CONFIGURATION = [
  refused('a kubeconfig that runs a command', 'harmed', () => ({ kubeconfig: runsCommand() }), notRun),
  refused(
    'a kubeconfig that runs a command, behind a link',
    'harmed',
    () => ({ kubeconfig: linked(runsCommand()) }),
    notRun,
  ),
  ...[
    ['of a list as KUBECONFIG has it', () => `${runsCommand()}:${runsCommand()}`],
    ['of the home that is written as ~', () => `~/${path.relative(process.env.HOME ?? '/', runsCommand())}`],
    ['behind the root of a process', () => `/proc/self/root${runsCommand()}`],
    ['by a path from the working folder', () => path.relative(process.cwd(), runsCommand())],
    ['as a URL', () => `file://${runsCommand()}`],
    [
      'with a second name on the shared volume',
      () => {
        const name = path.join(planted(), 'second');
        linkSync(runsCommand(), name);
        return name;
      },
    ],
  ].map(([name, file]) =>
    refused(
      `a kubeconfig ${String(name)}`,
      name === 'as a URL' || String(name).startsWith('of ') ? 'guard' : 'harmed',
      () => ({ kubeconfig: /** @type {() => string} */ (file)() }),
      notRun,
    ),
  ),
  {
    name: 'a kubeconfig among the variables of the agent',
    before: 'guard',
    play: async (host) => {
      const env = {
        KUBECONFIG: `${runsCommand()}:${host.cluster.kubeconfig}`,
        KUBERNETES_SERVICE_HOST: '127.0.0.2',
      };
      const { result } = await host.agent(ENDS, { config: { env: { ...env, HOSTILE_AGENT: ENDS } } });
      assert.equal(result.errorMessage, null, JSON.stringify(result));
      notRun();
    },
  },
  {
    name: 'a kubeconfig that runs a command, for the environment test',
    before: 'harmed',
    play: async () => {
      const test = await createServerAdapter().testEnvironment(environmentOf(runsCommand()));
      notRun();
      assert.match(JSON.stringify(test), /where agents can write/);
    },
  },
  heard('a file of the host as a token', 'harmed', () => ({ user: { tokenFile: '/proc/self/environ' } })),
  heard('a file of the host as a token, behind a link', 'harmed', () => ({
    user: { tokenFile: linked('/proc/self/environ') },
  })),
  heard(
    'a server whose certificate is not checked',
    'harmed',
    () => ({ cluster: { 'insecure-skip-tls-verify': true }, user: { token: 't' } }),
    'https',
  ),
  heard(
    'a certificate authority of the agent, as a file',
    'harmed',
    () => ({ cluster: { 'certificate-authority': linked('/etc/hostname') } }),
    'https',
  ),
  heard(
    'a certificate and a key that are files of the host',
    'guard',
    () => ({ user: { 'client-certificate': '/etc/passwd', 'client-key': '/proc/self/environ' } }),
    'https',
  ),
  // Each would be waited for without end.
  ...[
    ['a certificate authority', () => ({ cluster: { 'certificate-authority': pipe() } })],
    ['a key', () => ({ user: { 'client-certificate': pipe(), 'client-key': pipe() } })],
    ['a token', () => ({ user: { tokenFile: pipe() } })],
  ].map(([name, parts]) =>
    heard(`a pipe for ${String(name)}`, 'harmed', /** @type {() => object} */ (parts), 'https'),
  ),
  heard('a proxy of the agent', 'guard', (at) => ({
    cluster: { server: 'https://127.0.0.1:1', 'proxy-url': at },
  })),
  refused(
    'a file of the host for a kubeconfig, to see it in the error',
    'harmed',
    () => ({ kubeconfig: '/etc/passwd' }),
    (result) => assert.doesNotMatch(JSON.stringify(result), /root:|\/bin\/(ba)?sh/),
  ),
  refused(
    'a way over the shared volume to a kubeconfig of the operator',
    'harmed',
    () => {
      const link = linked('/etc/passwd');
      // The link can be swapped once it was checked.
      return { kubeconfig: `/tmp/..${link}` };
    },
    (result) => assert.match(JSON.stringify(result), /where agents can write/),
  ),
  ...[
    ['the variables of the host for instructions', () => '/proc/self/environ'],
    ['a link to the variables of the host', () => linked('/proc/self/environ')],
    ['a folder for instructions', planted],
    ['a way out of the home for instructions', () => `${planted()}/${'../'.repeat(20)}etc/passwd`],
  ].map(([name, file]) =>
    refused(/** @type {string} */ (name), 'guard', () => ({
      instructionsFilePath: /** @type {() => string} */ (file)(),
    })),
  ),
  refused("the operator's switches among its own variables", 'guard', () => ({
    env: { PAPERCLIP_K8S_POD_TEMPLATE: 'any' },
    podTemplate: { spec: { hostNetwork: true } },
  })),
  // The old version reads it until the machine's memory is full: not tried here.
  refused('a device for instructions', 'guard', () => ({ instructionsFilePath: linked('/dev/zero') })),
  refused('a pipe for instructions', 'harmed', () => ({ instructionsFilePath: pipe() })),
  refused('a file of the host for instructions', 'harmed', () => ({ instructionsFilePath: '/etc/passwd' })),
  ...[
    ['the master key of the host', 'instances/default/secrets/master.key', 'guard'],
    ['a private key elsewhere in the home', 'repos/tls.key', 'harmed'],
  ].map(([name, file, before]) =>
    refused(
      `${name}, for instructions`,
      /** @type {'harmed' | 'guard'} */ (before),
      () => ({ instructionsFilePath: ofTheServer(/** @type {string} */ (file)) }),
      notShown,
    ),
  ),
  refused(
    'a second name of the master key, for instructions',
    'harmed',
    () => {
      const name = path.join(planted(), 'AGENTS.md');
      linkSync(ofTheServer('instances/default/secrets/master.key'), name);
      return { instructionsFilePath: name };
    },
    notShown,
  ),
  refused('the network of the node', 'harmed', template({ hostNetwork: true })),
  refused('the files of the node', 'harmed', template({ volumes: [{ name: 'v', hostPath: { path: '/' } }] })),
  refused(
    'a Secret of the namespace',
    'harmed',
    template({
      containers: [
        {
          name: 'claude',
          env: [{ name: 'A', valueFrom: { secretKeyRef: { name: 'paperclip-secrets', key: 'k' } } }],
        },
      ],
    }),
  ),
  refused(
    'a volume of the host in a sidecar',
    'harmed',
    template({
      containers: [{ name: 's', image: 'i', volumeMounts: [{ name: 'data', mountPath: '/d' }] }],
    }),
  ),
  refused(
    'a copy of the volume of the host',
    'harmed',
    template({
      volumes: [
        {
          name: 'v',
          ephemeral: {
            volumeClaimTemplate: {
              spec: {
                accessModes: ['ReadWriteOnce'],
                resources: { requests: { storage: '1Gi' } },
                dataSource: { kind: 'PersistentVolumeClaim', name: 'paperclip' },
              },
            },
          },
        },
      ],
    }),
  ),
  refused('an annotation that takes AppArmor away', 'harmed', () => ({
    podAnnotations: { 'container.apparmor.security.beta.kubernetes.io/claude': 'unconfined' },
  })),
  {
    name: 'a skill of a thousand folders within each other',
    before: 'harmed',
    play: async (host) => {
      const folder = planted();
      mkdirSync(path.join(folder, ...Array.from({ length: 1000 }, () => 'd')), { recursive: true });
      const config = {
        paperclipRuntimeSkills: [{ key: 'org/deep', runtimeName: 'deep', source: folder }],
        paperclipSkillSync: { desiredSkills: ['org/deep'] },
      };
      const { result } = await host.agent(ENDS, { config });
      assert.equal(result.errorMessage, null, JSON.stringify(result));
    },
  },
  {
    name: 'a skill whose name leads out of the bundle',
    before: 'harmed',
    play: async (host) => {
      const folder = planted();
      writeFileSync(path.join(folder, 'SKILL.md'), '# Evil\n');
      const skill = {
        key: 'org/evil',
        runtimeName: `../../../../${path.basename(folder)}-out`,
        source: folder,
      };
      const config = {
        paperclipRuntimeSkills: [skill],
        paperclipSkillSync: { desiredSkills: ['org/evil'] },
      };
      const agent = { companyId: `company-${randomUUID()}` };
      const { result, output } = await host.agent(ENDS, { config, agent });
      assert.equal(result.errorMessage, null, JSON.stringify(result));
      assert.match(output.stderr, /Failed to materialize Claude skill "org\/evil"/);
      const company = path.join(
        process.env.PAPERCLIP_HOME ?? '',
        'instances/default/companies',
        agent.companyId,
      );
      assert(!existsSync(path.join(company, `${path.basename(folder)}-out`)), 'it is outside of the bundle');
    },
  },
  {
    name: 'skills whose names a file cannot have',
    before: 'guard',
    play: async (host) => {
      const source = planted();
      writeFileSync(path.join(source, 'SKILL.md'), '# Evil\n');
      const names = ['.', '..', 'a/b', 'a\\b', 'nul\u0000', 'n'.repeat(300)];
      const skills = names.map((runtimeName, n) => ({ key: `org/evil-${n}`, runtimeName, source }));
      const config = {
        paperclipRuntimeSkills: skills,
        paperclipSkillSync: { desiredSkills: skills.map(({ key }) => key) },
      };
      const { result, output } = await host.agent(ENDS, { config });
      assert.equal(result.errorMessage, null, JSON.stringify(result));
      for (const { key } of skills)
        assert(output.stderr.includes(`Failed to materialize Claude skill "${key}"`), output.stderr);
    },
  },
  {
    name: 'a configuration of ten thousand levels',
    before: 'guard',
    play: async (host) => {
      let mcpServers = {};
      for (let n = 0; n < 10_000; n++) mcpServers = { x: mcpServers };
      const { result, runId } = await host.agent(ENDS, { config: { mcpServers } });
      assert.notEqual(result.errorMessage, null, JSON.stringify(result));
      await host.assertNothingIsLeft(runId);
    },
  },
  {
    name: 'a second name of a file of the host in place of bundled files',
    before: 'guard',
    play: async (host) => {
      const source = planted();
      writeFileSync(path.join(source, 'SKILL.md'), '# Good\n');
      // Not on the shared volume, so it is copied.
      const skills = temporaryFolder('skills');
      renameSync(source, path.join(skills, 'good'));
      const instructionsFilePath = path.join(planted(), 'AGENTS.md');
      writeFileSync(instructionsFilePath, 'Be brief.');
      const agent = { companyId: `company-${randomUUID()}` };
      const config = {
        instructionsFilePath,
        paperclipRuntimeSkills: [{ key: 'org/good', runtimeName: 'good', source: path.join(skills, 'good') }],
        paperclipSkillSync: { desiredSkills: ['org/good'] },
      };
      const made = await host.agent(ENDS, { config, agent });
      assert.equal(made.result.errorMessage, null, JSON.stringify(made.result));
      const cache = path.join(
        process.env.PAPERCLIP_HOME ?? '',
        'instances/default/companies',
        agent.companyId,
        'claude-prompt-cache',
      );
      const bundle = path.join(cache, readdirSync(cache)[0] ?? '');
      const own = ofTheServer(`repos/${randomUUID()}`);
      const files = ['agent-instructions.md', '.claude/skills/good/SKILL.md'].map((name) => {
        const file = path.join(bundle, name);
        const second = path.join(path.dirname(file), 'second');
        const right = readFileSync(file, 'utf8');
        linkSync(own, second);
        renameSync(second, file);
        return { file, right };
      });
      const { result } = await host.agent(ENDS, { config, agent });
      assert.equal(result.errorMessage, null, JSON.stringify(result));
      assert.equal(readFileSync(own, 'utf8'), 'of-the-server\n', 'the host has written to its own file');
      for (const { file, right } of files) assert.equal(readFileSync(file, 'utf8'), right);
    },
  },
  {
    name: 'a link in place of the folder of bundles',
    before: 'harmed',
    play: async (host) => {
      const elsewhere = planted();
      const agent = { companyId: `company-${randomUUID()}` };
      const company = path.join(
        process.env.PAPERCLIP_HOME ?? '',
        'instances/default/companies',
        agent.companyId,
      );
      mkdirSync(company, { recursive: true });
      symlinkSync(elsewhere, path.join(company, 'claude-prompt-cache'));
      const { result } = await host.agent(ENDS, { agent });
      assert.equal(result.errorCode, 'k8s_prepare_failed', JSON.stringify(result));
      assert(lstatSync(path.join(company, 'claude-prompt-cache')).isSymbolicLink());
      assert.deepEqual(readdirSync(elsewhere), [], 'the host has written elsewhere');
    },
  },
];
