// Kubernetes and the control plane on loopback. Answers come from what a test has mocked: the client methods of the
// `k8s-client` module, and the global `fetch`.
import { mkdtempSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Writable } from 'node:stream';

import { listenOnLoopback } from '../support/server.js';
import { selfSigned } from './certificate.js';
import { state } from './state.js';

const HOSTNAME = 'existing-host';
const NAMESPACE = 'paperclip';
const CONTAINER = 'claude';

let servers;
/** Calls under test by number; a call's number is its bearer token and the first segment of its API URL. */
const calls = [];

/**
 * Gives one call under test a cluster of its own: a kubeconfig that leads to the bridge, and the environment of
 * a host in that cluster.
 *
 * @param {typeof import('./modules/k8s-client.js')} k8s gives the answers, at each request
 * @param {string} [kubeconfigPath] the path that the call itself names; the mocked getters get it
 */
export async function openCall(k8s, kubeconfigPath) {
  servers ??= start();
  const { port, apiPort, cert, dir } = await servers;
  const id = calls.length;
  const apiUrl = process.env.PAPERCLIP_API_URL;
  calls.push({ k8s, kubeconfigPath, apiUrl, uids: {} });
  const kubeconfig = path.join(dir, `kubeconfig-${id}.json`);
  const named = { name: 'bridge' };
  writeFileSync(
    kubeconfig,
    JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      'current-context': named.name,
      contexts: [{ ...named, context: { cluster: named.name, user: named.name } }],
      users: [{ ...named, user: { token: `call-${id}` } }],
      clusters: [
        {
          ...named,
          cluster: {
            server: `https://127.0.0.1:${port}`,
            'certificate-authority-data': Buffer.from(cert).toString('base64'),
          },
        },
      ],
    }),
  );
  // The mock of `prompt-cache` is not called: a run lays its bundle out itself.
  const home = path.join(dir, 'home');
  /** @type {NodeJS.ProcessEnv} */
  const env = {
    ...process.env,
    PAPERCLIP_HOME: home,
    HOSTNAME,
    PAPERCLIP_NAMESPACE: NAMESPACE,
    NO_PROXY: '127.0.0.1',
  };
  if (apiUrl) env.PAPERCLIP_API_URL = `http://127.0.0.1:${apiPort}/${id}`;
  return { kubeconfig, env };
}

async function start() {
  const dir = mkdtempSync(path.join(process.env.EXISTING_BRIDGE_DIR ?? tmpdir(), 'worker-'));
  const { key, cert } = selfSigned();
  const port = await listenOnLoopback(
    https.createServer({ key, cert }, (...pair) => answer(kubernetes, ...pair)).unref(),
  );
  const apiPort = await listenOnLoopback(
    http.createServer((...pair) => answer(controlPlane, ...pair)).unref(),
  );
  return { port, apiPort, cert, dir };
}

async function answer(handler, request, response) {
  state.touch();
  try {
    let text = '';
    for await (const chunk of request.setEncoding('utf8')) text += chunk;
    await handler(request, response, text ? JSON.parse(text) : undefined);
  } catch (error) {
    refuse(response, error);
  } finally {
    state.touch();
  }
}

function send(response, code, object) {
  response.writeHead(code, { 'content-type': 'application/json' }).end(JSON.stringify(object ?? {}));
}

/** Sends the rejection of a mocked method as a Status. */
function refuse(response, error) {
  const message = error instanceof Error ? error.message : String(error);
  const named = /HTTP-Code:\s*(\d{3})/.exec(message)?.[1];
  const code =
    error?.response?.statusCode ?? error?.response?.status ?? error?.statusCode ?? Number(named ?? 500);
  if (response.headersSent) response.destroy();
  else send(response, code, { kind: 'Status', apiVersion: 'v1', status: 'Failure', code, message });
}

const httpError = (statusCode, message) => Object.assign(new Error(message), { statusCode });

/** The name of an agent's claim: only this package has claims, so no answer of a mock is meant for one. */
const CLAIM = /^ac-.*-claim-[0-9a-f]{12}$/;

/** The selector of what belongs to an agent. */
const AGENT = /^paperclip\.io\/agent-id=[^,]+,paperclip\.io\/adapter-type=[^,]+$/;

/** The requests of docs/contract.md, "API requests", and no others: method, path below the namespace, client method. */
/** @type {[string, RegExp, (call: any, asked: any) => unknown][]} */
const ROUTES = [
  ['GET', /^pods\/([^/]+)$/, selfPod],
  [
    'GET',
    /^pods$/,
    (call, { namespace, query }) =>
      // Only this package's guard lists an agent's pods, so no answer of a mock is meant for it.
      AGENT.test(query.labelSelector ?? '')
        ? { items: [] }
        : podsOfJob(call, namespace, selector(query, /^job-name=[^,]+$/)),
  ],
  ['GET', /^pods\/([^/]+)\/log$/, podLog],
  [
    'GET',
    /^jobs$/,
    async (call, { namespace, query }) => {
      const list = await call.batch().listNamespacedJob({
        namespace,
        labelSelector: selector(query, AGENT),
      });
      for (const job of list?.items ?? []) call.uids[job.metadata?.name] = job.metadata?.uid;
      return list;
    },
  ],
  [
    'POST',
    /^jobs$/,
    async (call, { namespace, body }) => {
      if (CLAIM.test(body.metadata.name)) return body;
      const job = await call.batch().createNamespacedJob({ namespace, body });
      call.uids[body.metadata.name] = job?.metadata?.uid;
      return job;
    },
  ],
  [
    'GET',
    /^jobs\/([^/]+)$/,
    (call, { namespace, name }) => call.batch().readNamespacedJob({ name, namespace }),
  ],
  [
    'PATCH',
    /^jobs\/([^/]+)$/,
    (call, { namespace, name, body }) => call.batch().patchNamespacedJob({ name, namespace, body }),
  ],
  [
    'DELETE',
    /^jobs\/([^/]+)$/,
    (call, { namespace, name, body }) =>
      CLAIM.test(name) ? {} : call.batch().deleteNamespacedJob({ name, namespace, body }),
  ],
  [
    'POST',
    /^secrets$/,
    (call, { namespace, body }) => call.core().createNamespacedSecret({ namespace, body }),
  ],
  [
    'PATCH',
    /^secrets\/([^/]+)$/,
    (call, { namespace, name, body }) => call.core().patchNamespacedSecret({ name, namespace, body }),
  ],
  [
    'DELETE',
    /^secrets\/([^/]+)$/,
    (call, { namespace, name }) => call.core().deleteNamespacedSecret({ name, namespace }),
  ],
];

async function kubernetes(request, response, body) {
  const { k8s, kubeconfigPath, uids } =
    calls[Number(/^Bearer call-(\d+)$/.exec(request.headers.authorization)?.[1])] ?? {};
  if (!k8s) throw httpError(401, 'Unauthorized');
  const url = new URL(request.url, 'https://bridge');
  const [, namespace, rest] =
    /^\/(?:api|apis\/batch)\/v1\/namespaces\/([^/]+)\/(.+)$/.exec(url.pathname) ?? [];
  const query = Object.fromEntries(url.searchParams);
  const watch = ['true', '1'].includes(query.watch);
  for (const [method, shape, handler] of watch ? [] : ROUTES) {
    const match = request.method === method && shape.exec(rest ?? '');
    if (!match) continue;
    const call = {
      uids,
      info: () => k8s.getSelfPodInfo(kubeconfigPath),
      batch: () => k8s.getBatchApi(kubeconfigPath),
      core: () => k8s.getCoreApi(kubeconfigPath),
      logs: () => k8s.getLogApi(kubeconfigPath),
    };
    const asked = { namespace, name: match[1] && decodeURIComponent(match[1]), query, body, response };
    const object = await handler(call, asked);
    if (!response.headersSent) send(response, 200, object);
    return;
  }
  // Above all a watch: 0.1.49 has none, so the adapter polls as the contract says.
  throw httpError(403, `${request.method} ${request.url} is forbidden: no mock can answer it`);
}

/** Other lists are forbidden, so that they do not consume answers that are meant for these. */
function selector({ labelSelector = '' }, shape) {
  if (!shape.test(labelSelector)) throw httpError(403, `a list of "${labelSelector}" is forbidden`);
  return labelSelector;
}

/** The pods of a Job. The mocks' pods have no owner; those of a Job controller have, and no others are followed. */
async function podsOfJob(call, namespace, labelSelector) {
  const list = await call.core().listNamespacedPod({ namespace, labelSelector });
  const name = labelSelector.replace('job-name=', '');
  const uid = call.uids[name];
  if (!uid) return list;
  const owned = (pod) => ({
    ...pod,
    metadata: { ownerReferences: [{ apiVersion: 'batch/v1', kind: 'Job', name, uid }], ...pod.metadata },
  });
  return { ...list, items: list?.items?.map(owned) };
}

/** A pod from which the adapter reads the same facts as the mock gives. */
async function selfPod(call, { namespace, name }) {
  if (name !== HOSTNAME) throw httpError(403, `pod ${name} is forbidden`);
  const info = await call.info();
  if (info.namespace !== namespace) {
    throw new Error(`the bridge plays namespace ${namespace} only, not ${info.namespace}`);
  }
  const mounts = [];
  const volumes = [];
  if (info.pvcClaimName) {
    mounts.push({ name: 'data', mountPath: '/paperclip' });
    volumes.push({ name: 'data', persistentVolumeClaim: { claimName: info.pvcClaimName } });
  }
  for (const { volumeName, secretName, mountPath, defaultMode } of info.secretVolumes ?? []) {
    mounts.push({ name: volumeName, mountPath });
    volumes.push({ name: volumeName, secret: { secretName, defaultMode } });
  }
  const literal = Object.entries(info.inheritedEnv ?? {}).map(([key, value]) => ({ name: key, value }));
  return {
    metadata: { name, namespace },
    spec: {
      imagePullSecrets: info.imagePullSecrets,
      dnsConfig: info.dnsConfig,
      volumes,
      containers: [
        {
          name: 'paperclip',
          image: info.image,
          env: [...literal, ...(info.inheritedEnvValueFrom ?? [])],
          envFrom: info.inheritedEnvFrom,
          volumeMounts: mounts,
        },
      ],
    },
  };
}

/** Logs: a follow request lasts as long as the promise of the mocked `log`; what the mock writes becomes the body. */
async function podLog(call, { namespace, name, query, response }) {
  const follow = query.follow === 'true';
  const container = query.container ?? CONTAINER;
  const stamped = query.timestamps === 'true' ? stamps() : (chunk) => chunk;
  if (!follow) {
    const text = await call.core().readNamespacedPodLog({ name, namespace, container });
    response.writeHead(200, { 'content-type': 'text/plain' }).end(stamped(Buffer.from(text ?? '')));
    return;
  }
  const writable = new Writable({
    write(chunk, _encoding, done) {
      state.touch();
      response.write(stamped(chunk), () => done());
    },
  });
  response.once('close', () => writable.destroy());
  const options = { follow: true, pretty: false };
  const since = Date.parse(query.sinceTime ?? '');
  if (!Number.isNaN(since)) options.sinceSeconds = Math.max(1, Math.round((Date.now() - since) / 1000));
  response.writeHead(200, { 'content-type': 'text/plain' }).flushHeaders();
  // The headers are out: a rejection can only end the body, as its end does.
  await call
    .logs()
    .log(namespace, name, container, writable, options)
    ?.catch?.(() => {});
  response.end();
}

/** Puts a timestamp before each line. It follows from the line's index alone, so it is the same in every body. */
function stamps() {
  let index = 0;
  let atLineStart = true;
  return (chunk) => {
    const out = [];
    for (let from = 0; from < chunk.length;) {
      const end = chunk.indexOf(0x0a, from);
      const to = end === -1 ? chunk.length : end + 1;
      if (atLineStart) out.push(Buffer.from(`2026-01-01T00:00:00.${String(index++).padStart(9, '0')}Z `));
      out.push(chunk.subarray(from, to));
      atLineStart = end !== -1;
      from = to;
    }
    return Buffer.concat(out);
  };
}

/** The control plane: calls the global `fetch` that the test has mocked, with the test's own URL. */
async function controlPlane(request, response) {
  const [, id, rest] = /^\/(\d+)(\/.*)$/.exec(request.url) ?? [];
  const headers = { Authorization: request.headers.authorization };
  const answered = await globalThis.fetch(`${calls[Number(id)].apiUrl}${rest}`, { headers });
  if (answered.ok) send(response, answered.status ?? 200, await answered.json());
  else response.writeHead(answered.status ?? 500).end();
}
