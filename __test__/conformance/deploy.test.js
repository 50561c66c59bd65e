// What deploy/ has, on the real cluster: the base, the policies, and the example of a whole installation. The embedded cluster
// knows neither Deployments nor the Common Expression Language.
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { AGENT_IMAGE } from '../../tools/kubernetes/objects.mjs';
import { kubeconfig as kubeconfigText } from '../../tools/kubernetes/kubeconfig.mjs';
import { createExecute } from '../../js/execute.js';
import { eventually, hostRun } from '../support/host.js';
import { temporaryFolder } from '../support/temporary.js';
import { conformanceCluster } from './support/clusters.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const isReal = process.env.CONFORMANCE_CLUSTER === 'real';

let cluster;
/** The namespace that stands for `paperclip`, and what is appended to the names of objects without one. */
const namespace = `paperclip-deploy-${randomBytes(4).toString('hex')}`;
const suffix = `-${namespace}`;
const account = `system:serviceaccount:${namespace}:paperclip`;
const core = `/api/v1/namespaces/${namespace}`;
const jobs = `/apis/batch/v1/namespaces/${namespace}/jobs`;
/** @type {(() => Promise<unknown>)[]} */
const undo = [];

/** The objects of a kustomization, as `kubectl apply -k` makes them. */
async function built(folder) {
  const output = await cluster.kubectl('create', '--dry-run=client', '-o', 'json', '-k', folder);
  // One document after the other, or one list.
  const documents = output.split(/^(?=\{)/m).filter((text) => text.trim());
  return documents.map((text) => JSON.parse(text)).flatMap((one) => one.items ?? [one]);
}

/** A kustomization of deploy/ in the namespace of these specs. @param {string} name */
function overlay(name) {
  const folder = path.join(root, 'target', 'deploy', namespace, name);
  mkdirSync(folder, { recursive: true });
  const to = path.relative(folder, path.join(root, 'deploy', name));
  writeFileSync(
    path.join(folder, 'kustomization.yaml'),
    `apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: ${namespace}\nresources: [${to}]\n`,
  );
  undo.push(async () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

async function apply(items) {
  const file = path.join(temporaryFolder('deploy'), 'objects.json');
  writeFileSync(file, JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
  return cluster.kubectl('apply', '-f', file);
}

/** The example with this cluster's volume and a small image in the host's place. */
async function installation() {
  const parts = [overlay('example/paperclip'), path.join(root, 'deploy/policies')];
  const items = (await Promise.all(parts.map(built))).flat();
  const text = JSON.stringify(items)
    .replaceAll('system:serviceaccount:paperclip:paperclip', account)
    // Policies have no namespace: other clusters' and other runs' stay apart.
    .replaceAll(/"(paperclip-agents-(?:marks|jobs))"/g, `"$1${suffix}"`);
  const mine = JSON.parse(text);
  const volume = await cluster.volumeFor(namespace);
  for (const item of mine) {
    item.metadata.labels = { ...item.metadata.labels, ...cluster.labels };
    if (item.kind === 'ValidatingAdmissionPolicyBinding') {
      item.spec.matchResources.namespaceSelector.matchLabels['kubernetes.io/metadata.name'] = namespace;
    }
    if (item.kind === 'PersistentVolumeClaim') {
      Object.assign(item.spec, { storageClassName: 'test-host-path', volumeName: volume });
    }
    if (item.kind === 'Deployment') {
      const [container] = item.spec.template.spec.containers;
      // The specs of other files taint its node.
      item.spec.template.spec.tolerations = [{ operator: 'Exists' }];
      Object.assign(container, {
        image: AGENT_IMAGE,
        imagePullPolicy: 'IfNotPresent',
        command: ['sleep', '2147483647'],
      });
    }
  }
  return { items: mine, volume };
}

/** @returns {any} */
const job = (labels = {}, spec = {}) => ({
  apiVersion: 'batch/v1',
  kind: 'Job',
  metadata: { name: `probe-${randomBytes(4).toString('hex')}`, labels },
  spec: {
    template: {
      metadata: { labels },
      spec: {
        restartPolicy: 'Never',
        securityContext: { runAsNonRoot: true, runAsUser: 1000, seccompProfile: { type: 'RuntimeDefault' } },
        containers: [
          {
            name: 'claude',
            image: AGENT_IMAGE,
            securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } },
          },
        ],
        ...spec,
      },
    },
  },
});

const AGENT = { 'paperclip.io/adapter-type': 'claude_k8s', 'paperclip.io/agent-id': 'agent-1' };
const ONLY_PAPERCLIP = 'only Paperclip marks objects as those of its agents';

/** Requests as the account of Paperclip's pod. */
let asHost;
/** @type {Record<string, any>} */
let host;

/** The specs, where there is what they are about. */
const onReal = isReal ? describe : (/** @type {string} */ _name, /** @type {() => void} */ _specs) => {};

onReal('deploy/', () => {
  beforeAll(async () => {
    cluster = await conformanceCluster();
    const { items, volume } = await installation();
    const isNamespace = ({ kind }) => kind === 'Namespace';
    await apply(items.filter(isNamespace));
    undo.push(async () => {
      await cluster.kubectl('delete', 'namespace', namespace, '--wait=false');
      const policies = items.filter(({ kind }) => kind.startsWith('ValidatingAdmissionPolicy'));
      for (const { kind, metadata } of policies) await cluster.kubectl('delete', kind, metadata.name);
      if (volume) await cluster.api.delete(`/api/v1/persistentvolumes/${volume}`);
    });
    await cluster.api.post(`${core}/secrets`, {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { name: 'paperclip-secrets' },
      stringData: { ANTHROPIC_API_KEY: 'sk-ant-test', PAPERCLIP_AGENT_JWT_SECRET: 'signs-tokens' },
    });
    await apply(items.filter((item) => !isNamespace(item)));
    await cluster.kubectl('-n', namespace, 'rollout', 'status', 'deployment/paperclip', '--timeout=120s');
    const pods = await cluster.api.get(`${core}/pods?labelSelector=app.kubernetes.io%2Fname%3Dpaperclip`);
    host = pods.items[0];
    const token = (await cluster.kubectl('-n', namespace, 'create', 'token', 'paperclip')).trim();
    asHost = { bearer: token };
    // A policy takes a moment to act.
    await eventually(
      async () =>
        (await cluster.api.post(`${jobs}?dryRun=All`, job(AGENT)).catch((error) => error)) instanceof Error,
      { within: 60_000, every: 200 },
    );
  });

  afterAll(async () => {
    for (const step of undo.toReversed()) await step().catch(() => {});
    await cluster?.close();
  });

  it('base_is_applied_and_grants_what_a_run_needs', async () => {
    const role = await cluster.api.get(
      `/apis/rbac.authorization.k8s.io/v1/namespaces/${namespace}/roles/paperclip-claude-k8s`,
    );
    expect(role.rules.flatMap(({ verbs }) => verbs)).toContain('watch');
    const may = async (verb, what, name = '') =>
      (
        await cluster
          .kubectl('-n', namespace, 'auth', 'can-i', verb, what, ...(name ? [name] : []), `--as=${account}`)
          .catch(() => 'no')
      ).trim();
    expect(await may('create', 'jobs')).toBe('yes');
    expect(await may('get', 'secrets/paperclip-secrets')).toBe('yes');
    expect(await may('get', 'secrets/another')).toBe('no');
    expect(await may('delete', 'pods')).toBe('no');
  });

  it('others_cannot_make_what_looks_like_an_agent', async () => {
    const pod = { ...job(AGENT).spec.template, apiVersion: 'v1', kind: 'Pod' };
    const secret = { apiVersion: 'v1', kind: 'Secret' };
    for (const [where, object] of /** @type {[string, any][]} */ ([
      [jobs, job(AGENT)],
      [jobs, job({ 'paperclip.io/agent-id': 'agent-1' })],
      [`${core}/pods`, { ...pod, metadata: { name: 'forged', labels: AGENT } }],
      [`${core}/secrets`, { ...secret, metadata: { name: 'forged', labels: AGENT } }],
    ])) {
      const refused = await cluster.api.refusal('POST', `${where}?dryRun=All`, object);
      expect(refused.message, object.kind).toContain(ONLY_PAPERCLIP);
    }
    const labels = `/apis/batch/v1/namespaces/${namespace}/jobs`;
    const plain = await cluster.api.post(labels, job({}, { nodeName: 'none' }));
    const patch = { metadata: { labels: AGENT } };
    const refused = await cluster.api.refusal('PATCH', `${labels}/${plain.metadata.name}`, patch, {
      type: 'application/merge-patch+json',
    });
    expect(refused.message).toContain(ONLY_PAPERCLIP);
  });

  it('others_cannot_make_a_pod_that_an_agents_job_seems_to_own', async () => {
    const pod = { ...job().spec.template, apiVersion: 'v1', kind: 'Pod' };
    const name = 'ac-agent-1-run-1-abcdef';
    const owner = { apiVersion: 'batch/v1', kind: 'Job', name, uid: '6a1c2f0e-0000-4000-8000-000000000000' };
    const claims = [
      { ownerReferences: [owner] },
      { ownerReferences: [{ ...owner, kind: 'ReplicaSet' }, owner] },
      { labels: { 'job-name': name } },
      { labels: { 'batch.kubernetes.io/job-name': name } },
    ];
    const words = "only the Job controller makes the pods of agents' Jobs";
    for (const claim of claims) {
      const metadata = { name: 'forged', ...claim };
      const refused = await cluster.api.refusal('POST', `${core}/pods?dryRun=All`, { ...pod, metadata });
      expect(refused.message, JSON.stringify(claim)).toContain(words);
    }
    const metadata = { name: 'plain', labels: { 'job-name': 'of-another' } };
    const plain = { ...pod, metadata, spec: { ...pod.spec, nodeName: 'none' } };
    await cluster.api.post(`${core}/pods`, plain);
    for (const claim of claims) {
      const patch = { metadata: claim };
      const how = { type: 'application/merge-patch+json' };
      const refused = await cluster.api.refusal('PATCH', `${core}/pods/plain?dryRun=All`, patch, how);
      expect(refused.message, JSON.stringify(claim)).toContain(words);
    }
  });

  it('paperclip_itself_is_held_to_what_agents_may_be', async () => {
    const made = await cluster.api.post(`${jobs}?dryRun=All`, job(AGENT), asHost);
    expect(made.metadata.labels).toMatchObject(AGENT);
    const own = await cluster.api.refusal(
      'POST',
      `${jobs}?dryRun=All`,
      job(AGENT, { serviceAccountName: 'paperclip' }),
      asHost,
    );
    expect(own.message).toContain("an agent does not run as Paperclip's own service account");
    const volumes = [{ name: 'v', secret: { secretName: 'ac-other-run-1-abcdef-run-12345678' } }];
    const theirs = await cluster.api.refusal('POST', `${jobs}?dryRun=All`, job(AGENT, { volumes }), asHost);
    expect(theirs.message).toContain('an agent does not read the Secret of another run');
    const mine = job(AGENT);
    mine.spec.template.spec.volumes = [
      { name: 'v', secret: { secretName: `${mine.metadata.name}-run-12345678` } },
    ];
    await cluster.api.post(`${jobs}?dryRun=All`, mine, asHost);
  });

  it('network_policy_is_taken', async () => {
    const policy = await cluster.api.get(
      `/apis/networking.k8s.io/v1/namespaces/${namespace}/networkpolicies/paperclip-agents`,
    );
    expect(policy.spec).toMatchObject({
      podSelector: { matchLabels: { 'paperclip.io/adapter-type': 'claude_k8s' } },
      policyTypes: ['Ingress', 'Egress'],
    });
    // Nothing may come in.
    expect(policy.spec.ingress ?? []).toEqual([]);
  });

  it('agent_of_the_example_gets_its_workspace_and_no_secret_of_the_server', async () => {
    const view = JSON.parse(
      await cluster.kubectl('config', 'view', '--raw', '--minify', '--flatten', '-o', 'json'),
    );
    const { server: api, 'certificate-authority-data': ca } = view.clusters[0].cluster;
    const kubeconfig = path.join(temporaryFolder('deploy'), 'kubeconfig');
    writeFileSync(
      kubeconfig,
      kubeconfigText({ api, ca, token: asHost.bearer, user: 'paperclip', namespace }),
    );
    // As the host's process has it, but for the folder of the volume on this machine.
    const hostEnv = () => ({
      POD_NAME: host.metadata.name,
      PAPERCLIP_NAMESPACE: namespace,
      PAPERCLIP_HOME: path.join(cluster.home, namespace),
      PAPERCLIP_API_URL: 'http://paperclip:3100',
      PAPERCLIP_AGENT_JWT_SECRET: 'signs-tokens',
      PAPERCLIP_K8S_VOLUME: 'scoped',
    });
    const { ctx, output } = hostRun(
      { kubeconfig },
      {
        scenario: 'long',
        env: { CLAUDE_STAND_IN_SECONDS: '10' },
        config: {
          resources: { requests: { cpu: '10m', memory: '16Mi' }, limits: { cpu: '1', memory: '256Mi' } },
        },
        context: { paperclipWorkspace: { cwd: `/paperclip/${namespace}/work` } },
      },
    );
    const done = createExecute({ hostEnv })(ctx);
    const early = done.then((result) => {
      throw new Error(`it ended early: ${JSON.stringify(result)} ${output.stderr}`);
    });
    const started = eventually(
      async () => {
        const selector = encodeURIComponent(`paperclip.io/agent-id=${ctx.agent.id}`);
        const { items } = await cluster.api.get(`${core}/pods?labelSelector=${selector}`);
        return items.find(({ status }) => status.phase === 'Running');
      },
      { within: 120_000, every: 200 },
    ).catch((error) => {
      throw new Error(`${output.stdout} ${output.stderr}`, { cause: error });
    });
    const pod = await Promise.race([started, early]);
    early.catch(() => {});
    const sh = (script) =>
      cluster.kubectl('-n', namespace, 'exec', pod.metadata.name, '-c', 'claude', '--', 'sh', '-c', script);
    expect((await sh('ls -A /paperclip')).trim().split('\n')).toEqual(['.claude', namespace]);
    expect((await sh(`ls -A /paperclip/${namespace}`)).trim()).toBe('work');
    expect(await sh('printf %s "$PAPERCLIP_AGENT_JWT_SECRET-$ANTHROPIC_API_KEY"')).toBe('-sk-ant-test');
    expect(pod.spec.automountServiceAccountToken).toBe(false);
    expect(pod.spec.securityContext.seccompProfile).toEqual({ type: 'RuntimeDefault' });
    expect(pod.spec.volumes.map(({ name }) => name).toSorted()).toEqual(['data', 'home', 'prompt']);
    expect(await done).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(output.stdout).toContain(
      '[paperclip] Not given to the agent, because only the server needs it: PAPERCLIP_AGENT_JWT_SECRET (',
    );
  });
});

// The page shows what is applied above.
it('readme_of_deploy_names_each_folder', () => {
  const page = readFileSync(path.join(root, 'deploy', 'README.md'), 'utf8');
  for (const folder of ['base/', 'policies/', 'agents/', 'example/']) expect(page).toContain(`\`${folder}\``);
});
