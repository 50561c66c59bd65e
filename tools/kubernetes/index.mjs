// A real Kubernetes cluster for tests: started by `npm run cluster:up`, ended by `npm run cluster:down`, opened by tests
// and scripts with `openCluster`. A state file records what runs.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';

import { Problem, buildSimulator, step } from '../dev/lib.mjs';
import { home } from './cache.mjs';
import { output } from './command.mjs';
import { isRelease, packages } from './debian.mjs';
import {
  removeFolders,
  lastLine,
  lookAtNodes,
  newNamespace,
  removeLabelled,
  serverOf,
  serverOfKubeconfig,
  startExisting,
} from './existing.mjs';
import { busyboxFiles, contentTag, makeImage, programFiles } from './image.mjs';
import { containerEngine, kindControl, loadImage, startKind, stopKind } from './kind.mjs';
import { checkMachine, importImage, isNodeAlive, nodeControl, startNode, stopNode } from './node.mjs';
import {
  AGENT_IMAGE,
  BUSYBOX_IMAGE,
  HOST_POD,
  NAMESPACE,
  PAUSE_IMAGE,
  labelsOf,
  makeObjects,
  manifests,
} from './objects.mjs';
import { isAlive, recorded } from './processes.mjs';
import { until } from './wait.mjs';

/**
 * @typedef {object} State the state file
 * @property {string} name
 * @property {'node' | 'kind' | 'existing'} type
 * @property {string} dir
 * @property {string} namespace
 * @property {string} agentImage
 * @property {string} volume the folder behind the shared claim
 * @property {boolean} [sharesVolume] whether every node sees that folder; those of our own clusters do
 * @property {string} [admin] kubeconfig of an administrator
 * @property {Record<string, string>} [accounts] service account → kubeconfig
 * @property {boolean} [ready]
 */

const NAME = process.env.PAPERCLIP_TEST_CLUSTER ?? 'default';
const dirOf = (name) => path.join(home, 'run', name);
/** The folder of a cluster's component logs; it stays after the cluster has ended. */
export const logsOf = (name) => path.join(dirOf(name), 'logs');
const stateFile = (name) => path.join(dirOf(name), 'state.json');

/**
 * Starts the cluster unless it runs, and brings its images and objects up to date.
 *
 * @param {{existing?: boolean}} [options] `existing`: use the cluster that KUBECONFIG names
 */
export async function up({ existing = false } = {}) {
  const release = await lock(NAME);
  try {
    const old = read(NAME);
    if (old) await checkRecorded(old, existing);
    const state = read(NAME) ?? (await begin(existing));
    try {
      if (!state.admin) {
        state.admin = await { node: startNode, kind: startKind, existing: startExisting }[state.type](
          state,
          () => save(state),
        );
        save(state);
      }
      await furnish(state);
    } catch (error) {
      // Half a cluster is useless; its logs are not.
      if (!state.ready) await stopCluster(state).catch((problem) => console.error(problem.message));
      throw failure(state, error);
    }
    state.ready = true;
    save(state);
    return openCluster();
  } finally {
    release();
  }
}

/** Ends a recorded cluster of ours that is no longer alive. A recorded cluster of the other kind is a Problem. */
async function checkRecorded(old, existing) {
  const isTheirs = old.type === 'existing';
  if (isTheirs !== existing) {
    const what = isTheirs ? 'the cluster of KUBECONFIG' : 'a cluster of this machine';
    throw new Problem(
      `under the name ${NAME} ${what} is up: npm run cluster:down ends that, and PAPERCLIP_TEST_CLUSTER=NAME is another name.`,
    );
  }
  if (!isTheirs) return (await answers(old)) ? undefined : stopCluster(old);
  const recordedServer = old.admin && serverOf(readFileSync(old.admin, 'utf8'));
  const server = await serverOfKubeconfig();
  if (recordedServer && server && server !== recordedServer) {
    throw new Problem(
      `under the name ${NAME} the cluster ${recordedServer} is in use, and KUBECONFIG names ${server}: npm run cluster:down ends that.`,
    );
  }
}

/** An error of `up` as it is shown: in a cluster of the user's it is one line, and ours has logs. */
function failure(state, error) {
  if (state.type !== 'existing') {
    error.message += `\nLogs: ${logsOf(state.name)}`;
    return error;
  }
  return error instanceof Problem ? error : new Problem(`--existing: ${lastLine(error)}`);
}

/** Ends what `up` started; returns false if nothing was running. */
export async function down() {
  const release = await lock(NAME);
  try {
    const state = read(NAME);
    if (!state) return false;
    await stopCluster(state);
    return true;
  } finally {
    release();
  }
}

/** The running cluster, as scripts and tests use it. */
export function openCluster() {
  const state = read(NAME);
  if (!state?.ready) throw new Problem('no cluster is up: npm run cluster:up');
  return {
    ...state,
    hostPod: HOST_POD,
    accounts: /** @type {Record<string, string>} */ (state.accounts),
    admin: /** @type {string} */ (state.admin),
    /** Why specs cannot share files with pods; undefined where the nodes see the folder of the volume. */
    unshared:
      state.type !== 'existing' || state.sharesVolume
        ? undefined
        : `the nodes of this cluster do not see ${state.volume} of this machine`,
    /** What everything without a namespace must carry to be removed with the cluster's other objects. */
    labels: labelsOf(state.namespace),
    logs: logsOf(state.name),
    /** Runs kubectl as administrator; resolves to its output. */
    kubectl: (...args) => kubectl(state)(args),
    /** Stops and starts components; undefined for a cluster that `up` did not make. */
    control: {
      node: () => nodeControl(state, () => save(state)),
      kind: () => kindControl(state),
      existing: () => undefined,
    }[state.type](),
    /** Copies the components' logs into a folder, with the Jobs, pods and events that the API server has. */
    leaveLogs: (folder) => leaveLogs(state, folder),
    /** Makes an image from files of this machine and imports it into the node; see `makeImage`. */
    addImage: (image) => addImage(state, image),
    /** Imports an archive of an image into a node that `up` made of plain processes. */
    importArchive: (archive) => importImage(state, archive),
  };
}

async function leaveLogs(state, folder) {
  cpSync(logsOf(state.name), folder, { recursive: true });
  const objects = await kubectl(state)([
    '-n',
    state.namespace,
    'get',
    'jobs,pods,events',
    '-o',
    'json',
  ]).catch(String);
  writeFileSync(path.join(folder, 'objects.json'), objects);
}

/** @returns {Promise<State & Record<string, any>>} */
async function begin(existing) {
  const dir = dirOf(NAME);
  const engine = existing ? undefined : containerEngine();
  const namespace = existing ? newNamespace() : NAMESPACE;
  /** @type {State & Record<string, any>} */
  const state = {
    name: NAME,
    type: existing ? 'existing' : engine ? 'kind' : 'node',
    engine,
    dir,
    namespace,
    agentImage: AGENT_IMAGE,
    // On nodes of the user's no folder of another installation has this name, and it can be removed there.
    volume: path.join(dir, existing ? namespace : 'volume'),
  };
  if (state.type === 'node') checkMachine();
  rmSync(logsOf(NAME), { recursive: true, force: true });
  mkdirSync(logsOf(NAME), { recursive: true });
  // Containers and the host write here as different users.
  mkdirSync(state.volume, { recursive: true });
  chmodSync(state.volume, 0o777);
  save(state);
  return state;
}

/** Adds images and objects; any of them may exist already. */
async function furnish(state) {
  const run = kubectl(state);
  const programs = await buildSimulator();
  step('Images, namespace, volume, host pod and service accounts');
  await until(() => run(['get', '--raw', '/readyz']), { within: 120_000, what: 'the API server' });
  const busybox = busyboxFiles(await busyboxProgram());
  const agent = [...busybox, ...programFiles('/usr/local/bin/claude', path.join(programs, 'claude'))];
  if (state.type === 'node') {
    await addImage(state, { name: PAUSE_IMAGE, files: busybox, command: ['sleep', '2147483647'] });
  }
  // A node that has an older one of the same name must not pass for one that has it.
  if (state.type === 'existing') state.agentImage = `${AGENT_IMAGE}-${contentTag(agent)}`;
  const images = [
    { name: BUSYBOX_IMAGE, files: busybox },
    { name: state.agentImage, files: agent },
  ];
  if (state.type === 'existing') await furnishExisting(state, images);
  else for (const image of images) await addImage(state, image);
  const isReady = ({ status }) =>
    status.conditions?.some((condition) => condition.type === 'Ready' && condition.status === 'True');
  await until(async () => JSON.parse(await run(['get', 'nodes', '-o', 'json'])).items.some(isReady), {
    within: 120_000,
    what: 'a node that is ready',
  });
  const { namespace, volume, agentImage, dir } = state;
  state.accounts = await makeObjects(run, { namespace, volume, agentImage, into: dir });
  save(state);
}

/** Makes the namespace and finds out there what the nodes lack. */
async function furnishExisting(state, images) {
  const run = kubectl(state);
  const { namespace } = state;
  const found = await run(['get', 'namespace', namespace, '--ignore-not-found', '-o', 'json']);
  if (!found) {
    const [manifest] = manifests(state);
    await run(['create', '-f', '-'], JSON.stringify(manifest));
  } else if (
    Object.entries(labelsOf(namespace)).some(
      ([key, value]) => JSON.parse(found).metadata.labels?.[key] !== value,
    )
  ) {
    throw new Problem(`--existing: the namespace ${namespace} is not ours: it lacks our label.`);
  }
  await checkNodes(state, images);
}

/** Makes the archives and throws a Problem with a line for each image that a node lacks. */
async function checkNodes(state, images) {
  const archived = [];
  // Those of older builds are of no use.
  for (const file of filesIn(path.join(state.dir, 'images'))) {
    const isOld = /agent-test-/.test(file) && !file.includes(state.agentImage.split(':')[1]);
    if (isOld) rmSync(path.join(state.dir, 'images', file));
  }
  for (const image of images) archived.push({ name: image.name, archive: await archiveOf(state, image) });
  const { missing, sharesVolume } = await lookAtNodes(kubectl(state), { ...state, images: archived });
  // Said also where an image is missing: the user is to know all at once.
  if (sharesVolume === false) {
    console.log(
      `  the nodes do not see ${state.volume} of this machine: test:cli and test:host, which share files with pods, leave it out`,
    );
  }
  if (missing.length > 0) throw new Problem(missing.join('\n'));
  state.sharesVolume = sharesVolume;
}

/** Imports an image into the node; a user's nodes must have it. */
async function addImage(state, image) {
  if (state.type === 'existing') return checkNodes(state, [image]);
  const before = digest(archiveFile(state, image));
  const archive = await archiveOf(state, image);
  if (before !== undefined && before === digest(archive)) return;
  await (state.type === 'node' ? importImage : loadImage)(state, archive);
}

const filesIn = (folder) => (existsSync(folder) ? readdirSync(folder) : []);

const archiveFile = (state, { name }) =>
  path.join(state.dir, 'images', `${name.replace(/[^\w.-]+/g, '-')}.tar`);

const archiveOf = (state, image) => makeImage({ ...image, archive: archiveFile(state, image) });

function digest(file) {
  return existsSync(file) ? createHash('sha256').update(readFileSync(file)).digest('hex') : undefined;
}

async function busyboxProgram() {
  if (isRelease()) return path.join(await packages(), 'bin/busybox');
  const found = spawnSync('sh', ['-c', 'command -v busybox'], { encoding: 'utf8' }).stdout.trim();
  if (!found) throw new Problem('busybox is needed for the images: install its static build.');
  return found;
}

/** kubectl as administrator: the one that was built with the cluster, where one was. */
function kubectl(state) {
  return async (args, input) => {
    return output(state.node?.programs.kubectl ?? 'kubectl', ['--kubeconfig', state.admin, ...args], {
      input,
    });
  };
}

/** Whether the recorded cluster runs and answers. */
async function answers(state) {
  if (!state.admin || (state.type === 'node' && !isNodeAlive(state))) return false;
  return kubectl(state)(['get', '--raw', '/readyz', '--request-timeout=10s']).then(
    () => true,
    () => false,
  );
}

async function stopCluster(state) {
  if (state.type === 'existing' && state.admin) await leaveExisting(state);
  if (state.type === 'kind' && state.kind) await stopKind(state);
  if (state.type === 'node') await stopNode(state);
  for (const name of readdirSync(state.dir)) {
    // The logs stay until the next cluster of this name, and so do images that a user has to load.
    const stays = ['logs', 'state.json', ...(state.type === 'existing' ? ['images'] : [])].includes(name);
    if (!stays) removeTree(path.join(state.dir, name));
  }
  rmSync(stateFile(state.name), { force: true });
}

/** Removes our objects from a user's cluster. A cluster that no longer answers is left, and is said to be. */
async function leaveExisting(state) {
  const { namespace } = state;
  const run = kubectl(state);
  if (await answers(state)) {
    const remove = () =>
      removeLabelled(run, namespace).catch((error) => {
        throw new Problem(`--existing: not everything could be removed, try again: ${lastLine(error)}`);
      });
    await remove();
    if (state.sharesVolume !== false) return;
    await removeFolders(run, state).catch((error) =>
      console.error(`--existing: the folder ${state.volume} stays on the nodes: ${lastLine(error)}`),
    );
    return remove();
  }
  const [[key, value]] = Object.entries(labelsOf(namespace));
  console.error(
    `--existing: the API server does not answer; what is left there has the label ${key}=${value}, also namespace and volume.`,
  );
}

function removeTree(folder) {
  rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
}

/** @returns {State & Record<string, any> | undefined} */
function read(name) {
  if (!existsSync(stateFile(name))) return undefined;
  // A cluster that an older checkout has raised has no names in its state.
  return {
    namespace: NAMESPACE,
    agentImage: AGENT_IMAGE,
    ...JSON.parse(readFileSync(stateFile(name), 'utf8')),
  };
}

function save(state) {
  const part = `${stateFile(state.name)}.part`;
  writeFileSync(part, JSON.stringify(state, null, 2), { mode: 0o600 });
  renameSync(part, stateFile(state.name));
}

/** Lets one `up` or `down` run at a time; resolves to the function that releases the lock. */
async function lock(name) {
  const file = path.join(home, 'run', `${name}.lock`);
  mkdirSync(path.dirname(file), { recursive: true });
  await until(
    () => {
      try {
        writeFileSync(file, JSON.stringify(recorded(process.pid)), { flag: 'wx' });
        return true;
      } catch (error) {
        if (error.code !== 'EEXIST') throw error;
        if (!isAlive(JSON.parse(readFileSync(file, 'utf8') || 'null') ?? undefined))
          rmSync(file, { force: true });
        return false;
      }
    },
    { within: 1_800_000, every: 500, what: `the other process that raises or ends the cluster (${file})` },
  );
  return () => rmSync(file, { force: true });
}
