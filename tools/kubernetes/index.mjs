// A real Kubernetes cluster for tests: started by `npm run cluster:up`, ended by `npm run cluster:down`, opened by tests
// and scripts with `openCluster`. A state file records what runs.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
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
import { busyboxFiles, makeImage, programFiles } from './image.mjs';
import { containerEngine, kindControl, loadImage, startKind, stopKind } from './kind.mjs';
import { checkMachine, importImage, isNodeAlive, nodeControl, startNode, stopNode } from './node.mjs';
import {
  AGENT_IMAGE,
  BUSYBOX_IMAGE,
  HOST_POD,
  NAMESPACE,
  PAUSE_IMAGE,
  makeObjects,
  removeObjects,
} from './objects.mjs';
import { isAlive, recorded } from './processes.mjs';
import { until } from './wait.mjs';

/**
 * @typedef {object} State the state file
 * @property {string} name
 * @property {'node' | 'kind' | 'existing'} type
 * @property {string} dir
 * @property {string} volume the folder behind the shared claim
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
    const wanted = existing ? 'existing' : undefined;
    if (old && (wanted ? old.type !== wanted : old.type === 'existing' || !(await answers(old))))
      await stopCluster(old);
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
      error.message += `\nLogs: ${logsOf(state.name)}`;
      throw error;
    }
    state.ready = true;
    save(state);
    return openCluster();
  } finally {
    release();
  }
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
    namespace: NAMESPACE,
    hostPod: HOST_POD,
    agentImage: AGENT_IMAGE,
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
  };
}

async function leaveLogs(state, folder) {
  cpSync(logsOf(state.name), folder, { recursive: true });
  const objects = await kubectl(state)(['-n', NAMESPACE, 'get', 'jobs,pods,events', '-o', 'json']).catch(
    String,
  );
  writeFileSync(path.join(folder, 'objects.json'), objects);
}

async function begin(existing) {
  const dir = dirOf(NAME);
  const engine = existing ? undefined : containerEngine();
  const state = {
    name: NAME,
    type: existing ? 'existing' : engine ? 'kind' : 'node',
    engine,
    dir,
    volume: path.join(dir, 'volume'),
  };
  if (state.type === 'node') checkMachine();
  rmSync(logsOf(NAME), { recursive: true, force: true });
  mkdirSync(logsOf(NAME), { recursive: true });
  // Containers and the host write here as different users.
  mkdirSync(state.volume, { recursive: true });
  await output('chmod', ['0777', state.volume]);
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
  const claude = programFiles('/usr/local/bin/claude', path.join(programs, 'claude'));
  if (state.type === 'node') {
    await addImage(state, { name: PAUSE_IMAGE, files: busybox, command: ['sleep', '2147483647'] });
  }
  await addImage(state, { name: BUSYBOX_IMAGE, files: busybox });
  await addImage(state, { name: AGENT_IMAGE, files: [...busybox, ...claude] });
  const isReady = ({ status }) =>
    status.conditions?.some((condition) => condition.type === 'Ready' && condition.status === 'True');
  await until(async () => JSON.parse(await run(['get', 'nodes', '-o', 'json'])).items.some(isReady), {
    within: 120_000,
    what: 'a node that is ready',
  });
  state.accounts = await makeObjects(run, { volume: state.volume, into: state.dir });
  save(state);
}

async function addImage(state, image) {
  const archive = path.join(state.dir, 'images', `${image.name.replace(/[^\w.-]+/g, '-')}.tar`);
  const before = digest(archive);
  await makeImage({ ...image, archive });
  if (before !== undefined && before === digest(archive)) return archive;
  if (state.type === 'existing')
    console.log(`  ${image.name}: the nodes must know this image; it is in ${archive}`);
  else await (state.type === 'node' ? importImage : loadImage)(state, archive);
  return archive;
}

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

async function startExisting() {
  const file = process.env.KUBECONFIG;
  if (!file || !existsSync(file)) throw new Problem('--existing: KUBECONFIG names no file.');
  return path.resolve(file);
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
  if (state.type === 'existing' && state.admin) await removeObjects(kubectl(state));
  if (state.type === 'kind' && state.kind) await stopKind(state);
  if (state.type === 'node') await stopNode(state);
  for (const name of readdirSync(state.dir)) {
    // The logs stay until the next cluster of this name.
    if (name !== 'logs' && name !== 'state.json') removeTree(path.join(state.dir, name));
  }
  rmSync(stateFile(state.name), { force: true });
}

function removeTree(folder) {
  rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
}

function read(name) {
  return existsSync(stateFile(name)) ? JSON.parse(readFileSync(stateFile(name), 'utf8')) : undefined;
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
