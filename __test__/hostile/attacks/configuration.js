// What an agent configures for itself, and what it has planted on the shared volume.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync, lstatSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';

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

/** A kubeconfig that runs a command. */
function runsCommand() {
  const file = path.join(planted(), 'kubeconfig');
  const exec = { apiVersion: 'client.authentication.k8s.io/v1', command: 'touch', args: [proof] };
  const named = (of) => [{ name: 'a', ...of }];
  writeFileSync(
    file,
    JSON.stringify({
      clusters: named({ cluster: { server: 'https://127.0.0.1:1' } }),
      users: named({ user: { exec: { ...exec, interactiveMode: 'Never' } } }),
      contexts: named({ context: { cluster: 'a', user: 'a' } }),
      'current-context': 'a',
    }),
  );
  return file;
}

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
