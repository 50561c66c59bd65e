// A cluster of the user's own: `cluster:up -- --existing` uses the one that KUBECONFIG names. Everything that is made
// there carries one label with a random value, and only what carries it is ever deleted. Components, nodes and images are
// left alone: what is missing is said, one line each.
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { Problem } from '../dev/lib.mjs';
import { output } from './command.mjs';
import { BUSYBOX_IMAGE, labelsOf, namespaceManifest } from './objects.mjs';
import { until } from './wait.mjs';

/** What an account must be allowed to do, as `kubectl auth can-i` takes it. */
const NEEDED = [
  ['list', 'nodes'],
  ['create', 'namespaces'],
  ['delete', 'namespaces'],
  ['create', 'persistentvolumes'],
  ['delete', 'persistentvolumes'],
  ['create', 'roles.rbac.authorization.k8s.io'],
  ['create', 'pods'],
  ['list', 'secrets'],
  ['create', 'validatingadmissionpolicies.admissionregistration.k8s.io'],
  ['create', 'mutatingadmissionpolicies.admissionregistration.k8s.io'],
];
/** How long a node has to say what became of a pod that only looks; an image that it pulls first takes longer. */
const LOOK_MS = 60_000;
/**
 * Kinds without a namespace that the suites make, as `kubectl api-resources` names them, in the order in which they are
 * deleted: a policy may forbid what follows, and a volume is held by the claim in its namespace.
 */
const CLUSTER_SCOPED = [
  'priorityclasses.scheduling.k8s.io',
  'validatingadmissionpolicybindings.admissionregistration.k8s.io',
  'validatingadmissionpolicies.admissionregistration.k8s.io',
  'mutatingadmissionpolicybindings.admissionregistration.k8s.io',
  'mutatingadmissionpolicies.admissionregistration.k8s.io',
  'namespaces',
  'persistentvolumes',
];

/** A name for the namespace that no other has. */
export const newNamespace = () => `paperclip-test-${randomBytes(4).toString('hex')}`;

/**
 * Checks what can be checked before anything is built, and keeps a copy of the current context of KUBECONFIG: whatever the
 * user switches to later, objects are deleted where they were made.
 *
 * @param {{dir: string}} state
 * @returns {Promise<string>} the copy
 */
export async function startExisting({ dir }) {
  const client = spawnSync('kubectl', ['version', '--client'], { encoding: 'utf8' });
  if (client.error || client.status !== 0) {
    throw new Problem(
      '--existing: kubectl is not on the PATH or does not run: https://kubernetes.io/docs/tasks/tools',
    );
  }
  const view = await currentContext();
  const admin = path.join(dir, 'admin.kubeconfig');
  writeFileSync(admin, view, { mode: 0o600 });
  const run = (args, input) => output('kubectl', ['--kubeconfig', admin, ...args], { input });
  await run(['get', '--raw', '/readyz', '--request-timeout=10s']).catch((error) => {
    throw new Problem(`--existing: the API server of KUBECONFIG does not answer: ${lastLine(error)}`);
  });
  const answers = await Promise.all(
    NEEDED.map(async (what) => ((await mayI(run, what)) ? [] : [what.join(' ')])),
  );
  const refused = answers.flat();
  if (refused.length > 0) {
    throw new Problem(refused.map((what) => `--existing: this account may not ${what}.`).join('\n'));
  }
  await takingNodes(run);
  return admin;
}

/** The cluster that KUBECONFIG names now; undefined where it names none. */
export async function serverOfKubeconfig() {
  return process.env.KUBECONFIG ? serverOf(await currentContext()) : undefined;
}

/** @param {string} text a kubeconfig as `kubectl config view` prints it */
export const serverOf = (text) => JSON.parse(text).clusters?.[0]?.cluster?.server;

/** The current context of KUBECONFIG with all that it refers to. */
async function currentContext() {
  const files = (process.env.KUBECONFIG ?? '').split(path.delimiter).filter(Boolean);
  if (!files.some((file) => existsSync(file))) throw new Problem('--existing: KUBECONFIG names no file.');
  const view = ['config', 'view', '--raw', '--minify', '--flatten', '-o', 'json'];
  return output('kubectl', view).catch((error) => {
    throw new Problem(`--existing: KUBECONFIG cannot be used: ${lastLine(error)}`);
  });
}

/** kubectl prints `no`, perhaps with a reason, and fails; another failure is not an answer. */
async function mayI(run, what) {
  return run(['auth', 'can-i', ...what, '--all-namespaces']).then(
    () => true,
    (error) => {
      const line = lastLine(error);
      if (/^no\b/.test(line)) return false;
      throw new Problem(`--existing: the permissions of this account are not to be had: ${line}`);
    },
  );
}

/** The nodes that take any pod. */
async function takingNodes(run) {
  const { items } = JSON.parse(await run(['get', 'nodes', '-o', 'json']));
  const nodes = items
    .filter(({ spec, status }) => {
      const ready = status.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True');
      const taints = (spec.taints ?? []).filter(({ effect }) => effect !== 'PreferNoSchedule');
      return ready && !spec.unschedulable && taints.length === 0;
    })
    .map(({ metadata }) => metadata.name);
  if (nodes.length === 0) throw new Problem('--existing: no node is ready and takes pods.');
  return nodes;
}

/**
 * Finds out, by a pod on each node, which images the nodes lack and whether they see this machine's folder.
 *
 * @param {(args: string[], input?: string) => Promise<string>} run kubectl as administrator
 * @param {{namespace: string, volume: string, images: {name: string, archive: string}[]}} options
 * @returns {Promise<{missing: string[], sharesVolume: boolean | undefined}>} `missing`: a line for each image that a node
 *   lacks; `sharesVolume` is undefined where no image was there to find out
 */
export async function lookAtNodes(run, { namespace, volume, images }) {
  const nodes = await takingNodes(run);
  const mark = `look-${randomBytes(6).toString('hex')}`;
  const archives = Object.fromEntries(images.map(({ name, archive }) => [name, archive]));
  writeFileSync(path.join(volume, mark), mark);
  const pods = nodes.map((node, index) => lookingPod({ namespace, volume, images, mark, node, index }));
  try {
    await createPods(run, namespace, pods);
    const seen = await untilSeen(run, namespace, pods);
    return {
      missing: seen.flatMap(({ node, lacking }) =>
        lacking.map(({ image, why }) => missingImage({ node, image, why, archive: archives[image] })),
      ),
      sharesVolume: all(seen.map((one) => one.sharesVolume)),
    };
  } finally {
    rmSync(path.join(volume, mark), { force: true });
    await run([
      ...['-n', namespace, 'delete', 'pods', '--ignore-not-found', '--wait=false', '--grace-period=0'],
      ...['--force', '-l', 'app=look'],
    ]).catch(() => {});
  }
}

/** Creates pods in a new namespace, which refuses them until it has the default account. */
async function createPods(run, namespace, pods) {
  await until(() => run(['-n', namespace, 'get', 'serviceaccount', 'default']), {
    what: 'the default service account',
  });
  await run(['create', '-f', '-'], list(pods));
}

/** Whether all are true: false where one is false, undefined where one is not known. @param {(boolean | undefined)[]} found */
const all = (found) => (found.includes(false) ? false : found.includes(undefined) ? undefined : true);

/** A line that says which image a node lacks, and how to bring it there. */
function missingImage({ node, image, why, archive }) {
  return (
    `--existing: node ${node} has no image ${image} (${why}): load ${archive} there, ` +
    'by kind load image-archive, minikube image load, or ctr -n k8s.io images import on the node.'
  );
}

/** A container for each image, which all look for the same file on the volume. */
function lookingPod({ namespace, volume, images, mark, node, index }) {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: `look-${index}`, namespace, labels: { ...labelsOf(namespace), app: 'look' } },
    spec: {
      nodeName: node,
      restartPolicy: 'Never',
      automountServiceAccountToken: false,
      terminationGracePeriodSeconds: 0,
      containers: images.map(({ name }, at) => ({
        name: `image-${at}`,
        image: name,
        // Only we have the agent's image. The other one is to be had anywhere.
        imagePullPolicy: name === BUSYBOX_IMAGE ? 'IfNotPresent' : 'Never',
        command: ['sh', '-c', `test "$(cat /look/${mark})" = ${mark}`],
        volumeMounts: [{ name: 'look', mountPath: '/look', readOnly: true }],
      })),
      // Made where it is not there, as the volume of the runs is: the folder is then an empty one of the node.
      volumes: [{ name: 'look', hostPath: { path: volume, type: 'DirectoryOrCreate' } }],
    },
  };
}

/** Waits until each container of each pod has ended or cannot start. */
async function untilSeen(run, namespace, pods) {
  const deadline = Date.now() + LOOK_MS;
  for (;;) {
    const found = JSON.parse(
      await run(['-n', namespace, 'get', 'pods', '-l', 'app=look', '-o', 'json']),
    ).items;
    const isLate = Date.now() > deadline;
    const seen = pods.map((pod) =>
      judge(
        pod,
        found.find(({ metadata }) => metadata.name === pod.metadata.name),
        isLate,
      ),
    );
    if (seen.every(Boolean)) return seen;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

/** What a pod found out; undefined while it may find out more. */
export function judge(pod, found, isLate) {
  const statuses = found?.status?.containerStatuses ?? [];
  const lacking = [];
  /** @type {boolean | undefined} */
  let sharesVolume;
  for (const { name, image } of pod.spec.containers) {
    const { state = {} } = statuses.find((status) => status.name === name) ?? {};
    const reason = state.waiting?.reason;
    if (state.terminated) sharesVolume = sharesVolume || state.terminated.exitCode === 0;
    else if (/^(ErrImage|ImagePull|InvalidImage|ImageInspect)/.test(reason))
      lacking.push({ image, why: reason });
    else if (isLate) lacking.push({ image, why: reason ?? found?.status?.reason ?? 'its pod did not start' });
    else return undefined;
  }
  return { node: pod.spec.nodeName, lacking, sharesVolume };
}

/**
 * Removes what was made in a cluster that is not ours: what carries the label, and nothing else. Nothing is deleted by name.
 *
 * @param {(args: string[], input?: string) => Promise<string>} run kubectl as administrator
 * @param {string} namespace
 */
export async function removeLabelled(run, namespace) {
  const selector = Object.entries(labelsOf(namespace))
    .map((pair) => pair.join('='))
    .join();
  const served = (await run(['api-resources', '--namespaced=false', '--no-headers', '-o', 'name'])).split(
    '\n',
  );
  for (const kind of CLUSTER_SCOPED.filter((one) => served.includes(one))) {
    await run(['delete', kind, '-l', selector, '--ignore-not-found', '--wait=true', '--timeout=180s']);
  }
}

/**
 * Deletes the folder of the volume on nodes that do not see this machine's: each has made one of its own there. It happens in
 * a namespace of its own, once no other pod of ours is there.
 *
 * @param {(args: string[], input?: string) => Promise<string>} run kubectl as administrator
 * @param {{namespace: string, volume: string}} options
 */
export async function removeFolders(run, { namespace, volume }) {
  const name = `${namespace}-end`;
  await run(['apply', '-f', '-'], JSON.stringify(namespaceManifest(name, labelsOf(namespace))));
  const nodes = await takingNodes(run);
  const pods = nodes.map((node, index) => removingPod({ namespace: name, volume, node, index }));
  await createPods(run, name, pods);
  await until(
    async () => {
      const { items } = JSON.parse(await run(['-n', name, 'get', 'pods', '-o', 'json']));
      return items.every(({ status }) => status.phase === 'Succeeded');
    },
    { within: LOOK_MS, every: 500, what: `the pods that remove ${volume} on the nodes` },
  );
}

function removingPod({ namespace, volume, node, index }) {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: `remove-${index}`, namespace },
    spec: {
      nodeName: node,
      restartPolicy: 'OnFailure',
      automountServiceAccountToken: false,
      terminationGracePeriodSeconds: 0,
      containers: [
        {
          name: 'remove',
          image: BUSYBOX_IMAGE,
          imagePullPolicy: 'IfNotPresent',
          command: ['rm', '-rf', `/ours/${path.basename(volume)}`],
          volumeMounts: [{ name: 'ours', mountPath: '/ours' }],
        },
      ],
      volumes: [{ name: 'ours', hostPath: { path: path.dirname(volume), type: 'DirectoryOrCreate' } }],
    },
  };
}

/** The last line of what a command printed: the reason why it failed. */
export const lastLine = (error) => String(error.message).trim().split('\n').at(-1) ?? '';

const list = (items) => JSON.stringify({ apiVersion: 'v1', kind: 'List', items });
