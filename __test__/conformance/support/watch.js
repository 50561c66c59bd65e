// A watch by the client library, as a spec reads it.
import * as k8s from '@kubernetes/client-node';

/**
 * Watches as administrator.
 *
 * @param {import('./clusters.js').ConformanceCluster} cluster
 * @param {string} where path and query
 * @returns {Promise<{events: {type: string, object: any}[], stop: () => void,
 *   until: (wanted: (event: {type: string, object: any}) => unknown, within?: number) => Promise<{type: string, object: any}>}>}
 *   its events so far, and a promise for one that fits
 */
export async function watch(cluster, where) {
  const config = new k8s.KubeConfig();
  config.loadFromFile(cluster.kubeconfigs.admin);
  const [path, query] = where.split('?');
  /** @type {{type: string, object: any}[]} */
  const events = [];
  const waiting = new Set();
  const request = await new k8s.Watch(config).watch(
    path,
    Object.fromEntries(new URLSearchParams(query)),
    (type, object) => {
      events.push({ type, object });
      for (const check of waiting) check();
    },
    () => {},
  );
  return {
    events,
    until: (wanted, within = 60_000) =>
      new Promise((resolve, reject) => {
        const limit = setTimeout(
          () => reject(new Error(`no such event among ${events.map(({ type }) => type)}`)),
          within,
        );
        const check = () => {
          const found = events.find(wanted);
          if (!found) return;
          clearTimeout(limit);
          waiting.delete(check);
          resolve(found);
        };
        waiting.add(check);
        check();
      }),
    stop: () => request.abort(),
  };
}

const trueConditions = ({ status }) => (status.conditions ?? []).filter((one) => one.status === 'True');

/** What a version of a Job says about its end: numbers of pods, conditions, deletion. */
export function jobText({ metadata, status }) {
  const numbers = ['active', 'terminating', 'succeeded', 'failed']
    .filter((key) => status[key])
    .map((key) => `${key}=${status[key]}`);
  const conditions = trueConditions({ status }).map(({ type, reason }) => `${type}(${reason})`);
  const deletion = metadata.deletionTimestamp ? [`deleted(${metadata.finalizers})`] : [];
  return [...numbers, ...conditions, ...deletion].join(' ');
}

/** What a version of a pod says about its end: phase, deletion with its grace period, disruption, containers. */
export function podText({ metadata, status }) {
  const states = [...(status.initContainerStatuses ?? []), ...(status.containerStatuses ?? [])];
  const containers = states.map(({ name, state: { running, terminated, waiting } }) => {
    if (running) return `${name}:running`;
    return terminated
      ? `${name}:${terminated.exitCode}(${terminated.reason})`
      : `${name}:waiting(${waiting?.reason})`;
  });
  const disruptions = trueConditions({ status }).filter(({ type }) => type === 'DisruptionTarget');
  return [
    status.phase,
    ...(status.reason ? [`[${status.reason}]`] : []),
    ...(metadata.deletionTimestamp ? [`deleted(${metadata.deletionGracePeriodSeconds})`] : []),
    ...disruptions.map(({ reason, message }) => `${reason}(${message})`),
    ...containers,
  ].join(' ');
}

/** The texts of all versions that a watch brought, and of the deletion, without repetitions. */
export function historyOf(events, text) {
  const lines = events.map(({ type, object }) => `${text(object)}${type === 'DELETED' ? ' gone' : ''}`);
  return lines.filter((line, index) => line !== lines[index - 1]);
}
