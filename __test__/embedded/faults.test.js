// Faults, one per row: what goes wrong in the cluster or in the host, and what must be right about the run nonetheless.
// Every row has its own embedded cluster, so that no row meets another's faults.
//
// Elsewhere: what takes minutes, in memory under a paused clock (src/run/scenarios/faults.rs): a log that is half-open
// for 90 s or cut every 50 of 100,000 lines, an API that is down for more than a minute or answers after 30 s, a
// condition that lags by up to 60 s. Several hosts, and hosts that end during a run: lifetimes.test.js (killed, SIGTERM
// with 50 runs) and run.test.js (reload). Everything at random: soak/.
import { randomUUID } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createServerAdapter } from '../../index.js';
import { startCluster } from '../../tools/simulator/cluster.mjs';
import { noClocks, settableClock } from '../support/clock.js';
import {
  RUN_JOBS,
  agentLines,
  clusterForHost,
  eventually,
  gate,
  hostRun,
  leftovers,
  podsOf,
} from '../support/host.js';
import { killHosts, startHost } from '../support/processes.js';
import { listenOnLoopback } from '../support/server.js';

const adapter = createServerAdapter();
const RUNNER = 'system:serviceaccount:paperclip:runner';
const ok = { exitCode: 0, signal: null, timedOut: false, errorMessage: null };
const deleted = { errorCode: 'k8s_job_deleted_externally', timedOut: false };
const ended = (exitCode) => ({ errorCode: 'claude_truncated', timedOut: false, exitCode });
const unscheduled = { errorCode: 'k8s_pod_schedule_failed' };
const nothingStarted = { executionRecovery: { kind: 'bootstrap', providerWorkStarted: false } };
/** @param {RegExp} message */
const setUpFails = (message) => ({
  result: {
    errorCode: 'configuration_incomplete',
    resultJson: { k8sErrorCode: 'k8s_config_invalid' },
    ...nothingStarted,
  },
  message: new RegExp(`^Cannot set up the run: .*${message.source}`, message.flags),
  ticks: 0,
});
/** @param {RegExp} message */
const apiFails = (message) => ({
  result: { errorCode: 'k8s_api_unreachable', ...nothingStarted },
  message: new RegExp(`^Cannot read Paperclip's own pod: .*${message.source}`, message.flags),
  ticks: 0,
});

/**
 * A fault for requests of the run.
 *
 * @param {string | undefined} verb of any kind if it is undefined
 * @param {object} action
 * @param {{resource?: string, subresource?: string, times?: number, skip?: number,
 *   forMs?: number}} [which] and how often and when
 */
function fault(verb, action, { resource, subresource, ...rest } = {}) {
  const match = {
    user: RUNNER,
    ...(verb && { verb }),
    ...(resource && { resource }),
    ...(subresource !== undefined && { subresource }),
  };
  return { match, action, ...rest };
}
const status = (code, more) => ({ status: { code, ...more } });
/** The first Job that a run creates is its claim. */
const pastClaim = { skip: 1 };
const onLog = (action, rest) => fault('get', action, { resource: 'pods/log', ...rest });
const onWatch = (action, rest) => fault('watch', action, rest);

/** How often the log was opened to be followed, and how often its last line was requested. */
const expectLogRequests =
  (expected) =>
  async ({ cluster }) => {
    const { requests } = await cluster.get('/simulator/requests');
    const of = (text) =>
      requests.filter(({ subresource, query }) => subresource === 'log' && query.includes(text)).length;
    expect({ followed: of('follow=true'), checks: of('tailLines=1') }).toEqual(expected);
  };

/** The same answer to the first requests of every kind that a run sends before, while and after its Job runs. */
function everywhere(answer, times) {
  return [
    fault('get', answer, { resource: 'pods', subresource: '', times }),
    fault('list', answer, { resource: 'jobs', times }),
    fault('create', answer, { resource: 'jobs', times, ...pastClaim }),
    onWatch(answer, { times: 2 * times }),
    onLog(answer, { times }),
    fault('delete', answer, { resource: 'jobs', times }),
    fault('create', answer, { resource: 'secrets', times }),
  ];
}

/** Once the log contains this text. */
const after = (text, act) => ({ when: ({ output }) => output.stdout.includes(text), act });
const tick3 = (act) => after('tick 3 of', act);
const toPod =
  (action, body) =>
  async ({ cluster, pod }) =>
    cluster.post(`/simulator/pods/paperclip/${(await pod()).metadata.name}/${action}`, body);
const deleteJob = async ({ cluster, job }) => {
  const { name, namespace } = (await job()).metadata;
  await cluster.request('DELETE', `/apis/batch/v1/namespaces/${namespace}/jobs/${name}`, {
    propagationPolicy: 'Background',
  });
};
const setFaults =
  (...faults) =>
  async ({ cluster }) => {
    for (const one of faults) await cluster.post('/simulator/faults', one);
  };
const settings =
  (changes) =>
  ({ cluster }) =>
    cluster.post('/simulator/settings', changes);
const inTurn =
  (...acts) =>
  async (s) => {
    for (const act of acts) await act(s);
  };
const reset = ({ cluster }) => cluster.post('/simulator/connections/reset');
const restart =
  (downMs) =>
  ({ cluster }) =>
    cluster.post('/simulator/restart', { downMs });

/** @type {Record<string, [string, object][]>} */
const table = {
  'the API server': [
    ['is restarted during the run', { at: [tick3(restart(1_000))] }],
    [
      'is restarted again and again',
      {
        seconds: 5,
        at: [
          after('tick 1 of', restart(200)),
          after('tick 4 of', restart(200)),
          after('tick 7 of', restart(200)),
        ],
      },
    ],
    // The run is over with its last line: half a second later.
    ['is restarted as the run ends', { at: [after('tick 5 of', restart(1_500))] }],
    [
      'resets every connection',
      {
        at: [2, 3, 4, 5].map((n) =>
          after(`tick ${n} of`, ({ cluster }) => cluster.post('/simulator/connections/reset')),
        ),
      },
    ],
    ['answers 500 to the first requests of every kind', { faults: everywhere(status(500), 2) }],
    ['answers 503 to the first requests of every kind', { faults: everywhere(status(503), 2) }],
    ['answers 429 with Retry-After: 1', { faults: everywhere(status(429, { retryAfter: 1 }), 1) }],
    [
      'answers 401 once to every kind of request except creations',
      {
        faults: everywhere(status(401), 1).filter(({ match }) => match.verb !== 'create'),
      },
    ],
    ['resets the first connection of every kind of request', { faults: everywhere({ refuse: true }, 1) }],
    [
      'answers every request with 500 for two seconds',
      {
        at: [tick3(setFaults(fault(undefined, status(500), { forMs: 2_000 })))],
      },
    ],
    [
      'refuses every connection during cleanup',
      {
        at: [after('tick 5 of', setFaults(fault('delete', { refuse: true }, { forMs: 2_500 })))],
      },
    ],
    ['takes a second for every answer', { faults: [fault(undefined, { delayMs: 1_000 })] }],
    [
      'answers every deletion with 503',
      {
        seconds: 1,
        faults: [fault('delete', status(503))],
        warning:
          /^(?=[^]*\[paperclip\] Warning: failed to cleanup job ac-agent-\S+: HTTP-Code: 503)(?=[^]*\[paperclip\] Warning: failed to release the claim Job ac-agent-\S+-claim-\S+: HTTP-Code: 503)/,
        left: 3,
      },
    ],
    [
      'answers every request with 401 for two seconds',
      {
        at: [tick3(inTurn(setFaults(fault(undefined, status(401), { forMs: 2_000 })), reset))],
      },
    ],
    [
      'is down when the time limit passes',
      {
        scenario: 'hang',
        config: { timeoutSec: 2 },
        at: [after('"subtype":"init"', setFaults(fault(undefined, { refuse: true }, { forMs: 3_000 })))],
        result: {
          errorCode: 'timeout',
          timedOut: true,
          errorMessage: expect.stringMatching(
            /^Timed out after 2s; Job \S+: the run took longer than it may, at \S+Z$/,
          ),
        },
        ticks: false,
      },
    ],
  ],

  'a claim': [
    [
      'whose creation is answered 503 twice is retried',
      {
        seconds: 1,
        faults: [fault('create', status(503), { resource: 'jobs', times: 2 })],
      },
    ],
    [
      'that is forbidden is skipped with a log line',
      {
        seconds: 1,
        faults: [
          fault('create', status(403, { message: 'no Jobs without an owner' }), {
            resource: 'jobs',
            times: 1,
          }),
        ],
        warning:
          /\[paperclip\] Warning: cannot claim the start of this agent's runs in namespace paperclip — two hosts that start one at the same moment would not see each other: HTTP-Code: 403 Message: no Jobs without an owner/,
      },
    ],
    [
      'that takes the last Job of a quota is deleted for the run',
      { seconds: 1, settings: { quota: { jobs: 1 } } },
    ],
  ],

  'a creation': [
    [
      'whose connection is refused once is retried',
      { faults: [fault('create', { refuse: true }, { resource: 'jobs', times: 1, ...pastClaim })] },
    ],
    [
      'of the prompt Secret that is answered 503 once is retried',
      {
        faults: [fault('create', status(503), { resource: 'secrets', times: 1 })],
      },
    ],
    [
      'whose answer is lost creates one Job',
      {
        proxied: true,
        // Late enough that its answer is delayed.
        faults: [fault('create', { delayMs: 500 }, { resource: 'jobs', times: 1, ...pastClaim })],
        at: [
          after('Skills bundled', ({ proxy }) => {
            proxy.hold = true;
          }),
          {
            when: ({ job }) => job(),
            act: ({ proxy }) => {
              proxy.cut();
              proxy.hold = false;
            },
          },
        ],
        also: async ({ cluster }) => {
          const { requests } = await cluster.get('/simulator/requests');
          const answers = requests
            .filter(({ verb, resource }) => verb === 'create' && resource === 'jobs')
            .map((r) => r.status);
          expect(answers, 'the claim, the Job, and the Job again').toEqual([201, 201, 409]);
        },
      },
    ],
    [
      'that the quota refuses is reported',
      {
        settings: { quota: { jobs: 0 } },
        result: { errorCode: 'k8s_job_create_failed' },
        message: /^Failed to create Kubernetes Job: HTTP-Code: 403 Message: .*exceeded quota/,
        ticks: 0,
      },
    ],
    [
      'of the pod that the quota refuses for a while is waited for',
      {
        // The quota admits only the host's pod.
        settings: { quota: { pods: 1 } },
        at: [
          {
            when: ({ output }) => output.stderr.includes('No pod was created'),
            act: settings({ quota: {} }),
          },
        ],
        warning: /\[paperclip\] Job ac-agent-\S+: No pod was created: .*exceeded quota/,
        also: ({ output }) =>
          expect(output.stdout.match(/Waiting for Job controller to create pod/g)).toHaveLength(1),
      },
    ],
    [
      'that an admission webhook denies is reported',
      {
        faults: [
          fault(
            'create',
            status(403, { message: 'admission webhook "policy" denied the request: no team' }),
            { resource: 'jobs' },
          ),
        ],
        result: { errorCode: 'k8s_job_create_failed' },
        message:
          /^Failed to create Kubernetes Job: HTTP-Code: 403 Message: admission webhook "policy" denied the request: no team; Job \S+: an admission policy or webhook refused it, at \S+Z$/,
        ticks: 0,
      },
    ],
    [
      'that validation refuses is reported',
      {
        faults: [
          fault('create', status(422, { message: 'Job.batch "x" is invalid: spec: Forbidden' }), {
            resource: 'jobs',
          }),
        ],
        result: { errorCode: 'k8s_job_create_failed' },
        message: /^Failed to create Kubernetes Job: HTTP-Code: 422 Message: Job\.batch "x" is invalid/,
        ticks: 0,
      },
    ],
    [
      'that is forbidden is reported',
      {
        faults: [fault('create', status(403, { message: 'no' }), { resource: 'secrets' })],
        result: { errorCode: 'k8s_prompt_secret_create_failed' },
        message:
          /^Failed to create prompt Secret: HTTP-Code: 403 Message: no; Job \S+: the Secret with its prompt could not be created, at \S+Z$/,
        ticks: 0,
      },
    ],
    [
      'in a namespace that is being deleted is reported',
      {
        namespace: 'agents',
        // Its Secret has a finalizer and stays, and so does the namespace.
        before: async ({ cluster }) => {
          await cluster.post('/api/v1/namespaces/agents/secrets', {
            apiVersion: 'v1',
            kind: 'Secret',
            metadata: { name: 'held', finalizers: ['example.org/held'] },
          });
          await cluster.delete('/api/v1/namespaces/agents');
        },
        result: { errorCode: 'k8s_job_create_failed' },
        message:
          /unable to create new content in namespace agents because it is being terminated; Job \S+: the namespace it was to be created in is being deleted, at \S+Z$/,
        ticks: 0,
      },
    ],
  ],

  'the log': [
    ['ends early every two lines', { faults: [onLog({ cut: { afterLines: 2 } }, { times: 2 })] }],
    ['is reset every two lines', { faults: [onLog({ cut: { afterLines: 2, reset: true } }, { times: 6 })] }],
    [
      'is reset in the middle of a line',
      { faults: [onLog({ cut: { afterBytes: 700, reset: true } }, { times: 4 })] },
    ],
    [
      'answers with an error text',
      {
        faults: [onLog({ logText: 'unable to retrieve container logs for containerd://0a1b' }, { times: 3 })],
        also: ({ output }) => expect(agentLines(output).join()).not.toContain('unable to retrieve'),
      },
    ],
    ['stalls, and the run ends', { faults: [onLog({ stall: { afterLines: 4 } }, { times: 1 })] }],
    [
      'is refused for two seconds',
      {
        at: [tick3(setFaults(onLog(status(503), { forMs: 2_000 })))],
        faults: [onLog({ cut: { afterLines: 4 } }, { times: 1 })],
      },
    ],
    [
      'was rotated while it could not be read',
      {
        seconds: 10,
        faults: [onLog({ cut: { afterLines: 4, reset: true } }, { times: 1 })],
        at: [
          after(
            'tick 1 of',
            inTurn(setFaults(onLog(status(503), { forMs: 2_500 })), settings({ logRotateBytes: 1_500 })),
          ),
          after('reconnecting (attempt 3', () => {}),
          after('[paperclip] Log gap', settings({ logRotateBytes: 1 << 20 })),
        ],
        ticks: ({ output }) => {
          expect(output.stdout.match(/^\[paperclip\] Log gap: .*$/gm), 'one mark').toHaveLength(1);
          const [before, behind] = output.stdout
            .split('[paperclip] Log gap')
            .map((stdout) => ticksIn({ stdout }));
          expect(before, 'none lost before it').toEqual(before.map((_, n) => n + 1));
          expect(behind[0] - before.at(-1), 'some lost at it').toBeGreaterThan(1);
          expect(behind, 'none lost after it').toEqual(behind.map((_, n) => behind[0] + n));
          expect(behind.at(-1)).toBe(20);
        },
      },
    ],
    ['is forbidden twice', { faults: [onLog(status(403), { times: 2 })] }],
    [
      'is silent, and its last line known',
      {
        scenario: 'silent',
        seconds: 95,
        ticks: () => {},
        also: expectLogRequests({ followed: 1, checks: 1 }),
      },
    ],
    [
      'stalls while the agent works on, which its last line shows',
      {
        seconds: 100,
        faults: [onLog({ stall: { afterLines: 4 } }, { times: 1 })],
        also: expectLogRequests({ followed: 2, checks: 1 }),
      },
    ],
  ],

  'a watch': [
    ['is cut again and again', { faults: [onWatch({ cut: { afterLines: 1, reset: true } }, { times: 12 })] }],
    ['ends again and again', { faults: [onWatch({ cut: { afterLines: 1 } }, { times: 12 })] }],
    ['has expired', { faults: [onWatch({ expireWatch: true }, { times: 6 })] }],
    [
      'cannot resume where it was cut',
      {
        settings: { expiredAsStatus: true },
        at: [
          tick3(async ({ cluster }) => {
            await cluster.post('/simulator/compact');
            await cluster.post('/simulator/connections/reset');
          }),
        ],
      },
    ],
    ['has an object that cannot be parsed', { faults: [onWatch({ garbage: true }, { times: 6 })] }],
    ['is forbidden', { faults: [onWatch(status(403))] }],
    ['stalls', { faults: [onWatch({ stall: { afterLines: 0 } })] }],
  ],

  'the Job': [
    ['has its final condition at once', { settings: { jobConditionLagMs: 0 } }],
    ['has its final condition two seconds late', { settings: { jobConditionLagMs: 2_000 } }],
    ['has its final condition five seconds late', { settings: { jobConditionLagMs: 5_000 } }],
    [
      'is deleted before it has a pod',
      {
        settings: { jobControllerPaused: true },
        // From here on there is a watch that reports it.
        at: [after('Waiting for Job controller to create pod', deleteJob)],
        result: { ...deleted, ...nothingStarted },
        message: /detected_via=watch-deleted/,
        ticks: 0,
      },
    ],
    [
      'is deleted before its pod is scheduled',
      {
        settings: { schedulingDelayMs: 3_000 },
        at: [after('phase=Pending', deleteJob)],
        result: { ...deleted, ...nothingStarted },
        message: /detected_via=watch-deleted/,
        ticks: 0,
      },
    ],
    [
      'is deleted while its pod starts',
      {
        settings: { podStartDelayMs: 3_000 },
        at: [after('phase=Pending', deleteJob)],
        result: deleted,
        message: /detected_via=watch-deleted/,
        ticks: 0,
      },
    ],
    [
      'is deleted during the run',
      {
        at: [tick3(deleteJob)],
        result: { ...deleted, exitCode: 143 },
        message: /detected_via=watch-deleted.*the pod was deleted by an unknown API client/,
        ticks: 3,
      },
    ],
    [
      'is deleted after the result',
      {
        scenario: 'slow-result',
        at: [after('"type":"result"', deleteJob)],
        // The success counts, and not how the container was ended afterwards.
        result: { exitCode: null, errorMessage: null, summary: 'All done.' },
        ticks: false,
      },
    ],
    [
      'is replaced by another of the same name',
      {
        at: [
          tick3(async ({ cluster, job }) =>
            cluster.post(`/simulator/jobs/paperclip/${(await job()).metadata.name}/replace`),
          ),
        ],
        result: deleted,
        message: /detected_via=(uid-changed|watch-deleted)/,
        ticks: 3,
        left: 1,
      },
    ],
    [
      'is retained and deleted after its time to live',
      {
        config: { retainJobs: true, ttlSecondsAfterFinished: 1 },
        left: undefined,
        also: ({ cluster }) => eventually(async () => (await leftovers(cluster)).length === 0),
      },
    ],
    [
      'lives for a second after its end and is not watched',
      { config: { ttlSecondsAfterFinished: 1 }, faults: [onWatch(status(403))] },
    ],
    [
      'is deleted with its namespace',
      {
        namespace: 'agents',
        at: [tick3(({ cluster }) => cluster.delete('/api/v1/namespaces/agents'))],
        result: deleted,
        message: /detected_via=/,
        ticks: 3,
      },
    ],
  ],

  'the pod': [
    [
      'is deleted',
      {
        at: [tick3(toPod('delete'))],
        result: ended(143),
        message: /; the pod was deleted by an unknown API client/,
        ticks: 3,
      },
    ],
    [
      'is evicted',
      {
        at: [tick3(toPod('evict'))],
        result: ended(143),
        message: /\[TerminationByKubelet\]: The node was low on resource/,
        ticks: 3,
      },
    ],
    [
      'is preempted',
      { at: [tick3(toPod('preempt'))], result: ended(143), message: /\[PreemptionByScheduler\]/, ticks: 3 },
    ],
    [
      'is evicted by a taint',
      { at: [tick3(toPod('taint'))], result: ended(143), message: /\[DeletionByTaintManager\]/, ticks: 3 },
    ],
    [
      'is lost with its node',
      {
        at: [tick3(toPod('node-lost', { removeAfterMs: 2_000 }))],
        result: ended(null),
        message: /\[DeletionByPodGC\]/,
        ticks: 3,
      },
    ],
    ['runs out of memory', { at: [tick3(toPod('oom'))], result: ended(137), message: /OOMKilled/, ticks: 3 }],
    [
      'is killed',
      {
        at: [tick3(toPod('kill', { signal: 'SIGSEGV' }))],
        result: ended(139),
        message: /exit code 139/,
        ticks: 3,
      },
    ],
    [
      'cannot be scheduled',
      {
        settings: { unschedulable: true },
        result: unscheduled,
        message: /^Pod scheduling failed: Pod unschedulable/,
        ticks: 0,
      },
    ],
    [
      'has an image that cannot be pulled',
      {
        settings: { unpullable: ['*'] },
        config: { imagePullGraceSec: 1 },
        result: unscheduled,
        message: /^Pod scheduling failed: .*pull/,
        ticks: 0,
      },
    ],
    [
      'has an image that cannot be pulled for 20 s',
      {
        before: ({ cluster }) =>
          cluster.post('/simulator/pods/paperclip/ac-agent-*/fail-image-for', { forMs: 20_000 }),
        also: ({ output }) => {
          for (const reason of ['ErrImagePull', 'ImagePullBackOff']) {
            expect(output.stdout).toMatch(
              new RegExp(`Pod ac-agent-\\S+: phase=Pending.*waiting \\(${reason}\\)`),
            );
          }
        },
      },
    ],
    [
      'is slow to be scheduled, pulled and started',
      {
        settings: { schedulingDelayMs: 1_500, imagePullDelayMs: 1_500, podStartDelayMs: 500 },
      },
    ],
  ],

  'the host': [
    ['takes 200 ms for every chunk', { onLog: () => sleep(200) }],
    ['rejects every chunk', { onLog: () => Promise.reject(new Error('disk full')) }],
    [
      'throws at every chunk',
      {
        onLog: () => {
          throw new Error('disk full');
        },
      },
    ],
  ],

  'an account': [
    [
      'that may not patch Jobs still attaches to one',
      {
        seconds: 5,
        orphan: true,
        faults: [fault('patch', status(403), { resource: 'jobs' })],
        warning: /\[paperclip\] Warning: failed to relabel reattached Job ac-agent-\S+: HTTP-Code: 403/,
        also: ({ output }) => expect(output.stdout).toMatch(/Reattaching to in-flight K8s Job ac-agent-\S+/),
      },
    ],
    [
      'that may not delete Jobs logs that',
      {
        faults: [fault('delete', status(403), { resource: 'jobs' })],
        warning: /\[paperclip\] Warning: failed to cleanup job ac-agent-\S+: HTTP-Code: 403/,
        // The claim as well, and the Secret.
        left: 3,
      },
    ],
    [
      'that may not list Jobs starts nothing',
      {
        faults: [fault('list', status(403), { resource: 'jobs' })],
        result: { errorCode: 'k8s_concurrency_guard_unreachable' },
        message: /^Concurrency guard unreachable: HTTP-Code: 403/,
        ticks: 0,
      },
    ],
    [
      "that may not read the host's pod starts nothing",
      {
        faults: [fault('get', status(403), { resource: 'pods', subresource: '' })],
        ...apiFails(/HTTP-Code: 403/),
      },
    ],
  ],

  'the clock': [
    [
      'of the cluster is an hour ahead',
      { clock: 3_600, faults: [onLog({ cut: { afterLines: 4, reset: true } }, { times: 3 })] },
    ],
    [
      'of the cluster is an hour behind',
      { clock: -3_600, faults: [onLog({ cut: { afterLines: 4, reset: true } }, { times: 3 })] },
    ],
    [
      'of the cluster jumps an hour ahead',
      {
        clock: 0,
        at: [
          tick3(inTurn(({ clock }) => clock.set(3_600), reset)),
          after('tick 4 of', reset),
          after('tick 5 of', reset),
        ],
      },
    ],
    [
      'of the cluster jumps an hour back',
      {
        clock: 0,
        at: [tick3(({ clock }) => clock.set(-3_600)), after('tick 4 of', reset), after('tick 5 of', reset)],
      },
    ],
    // The new lines are older than the log request's sinceTime, until the log is read from its beginning.
    [
      'of the cluster jumps an hour back between two readings of the log',
      {
        clock: 3_600,
        faults: [
          onLog({ cut: { afterLines: 2, reset: true } }, { times: 1 }),
          onLog(status(503), { times: 3 }),
        ],
        at: [after('tick 1 of', ({ clock }) => clock.set(0))],
      },
    ],
    .../** @type {[string, object][]} */ (
      [3_600, -3_600].map((jump) => [
        `of the host jumps by ${jump} s`,
        {
          hostClock: 0,
          at: [tick3(inTurn(({ hostClock }) => hostClock.set(jump), reset)), after('tick 5 of', reset)],
        },
      ])
    ),
    [
      'of the host jumps past the end of its token',
      {
        hostClock: 0,
        // The plugin reads the host's clock, as the addon does.
        kubeconfig: ({ config, cluster, token }) =>
          config({ exec: plugin(cluster, token, { seconds: 1_800 }) }),
        at: [tick3(inTurn(({ hostClock }) => hostClock.set(7_200), reset)), after('tick 5 of', reset)],
        also: ({ cluster }) => expect(pluginCalls(cluster)).toBeGreaterThan(1),
      },
    ],
  ],

  'a kubeconfig': [
    [
      'that does not exist',
      {
        kubeconfig: () => undefined,
        ...setUpFails(/ENOENT: no such file or directory, open '\S+-row'; /),
      },
    ],
    ['that is not YAML', { kubeconfig: () => '{"clusters": [', ...setUpFails(/kubeconfig|yaml|parse/i) }],
    ['without clusters', { kubeconfig: () => 'apiVersion: v1\nkind: Config\n', ...setUpFails(/./) }],
    [
      'with an unknown token',
      {
        kubeconfig: ({ config }) => config({ token: 'unknown' }),
        ...apiFails(/HTTP-Code: 401 Message: Unauthorized; /),
      },
    ],
    [
      'with a token that expires during the run',
      {
        kubeconfig: ({ config, cluster, token }) => config({ exec: plugin(cluster, token, { seconds: 61 }) }),
        at: [
          tick3(async (s) => {
            const { cluster, token, admit } = s;
            await admit('a-later-token');
            plugin(cluster, 'a-later-token', { seconds: 600 });
            await cluster.delete(`/simulator/tokens/${token}`);
            await reset(s);
          }),
        ],
        also: ({ cluster }) => expect(pluginCalls(cluster)).toBeGreaterThan(1),
      },
    ],
    [
      'with an exec plugin that fails',
      {
        kubeconfig: ({ config, cluster }) =>
          config({ exec: { ...plugin(cluster, ''), args: ['-e', 'process.exit(3)'] } }),
        ...setUpFails(/exit/),
      },
    ],
    [
      'with an exec plugin that does not exist',
      {
        kubeconfig: ({ config, cluster }) =>
          config({ exec: { ...plugin(cluster, ''), command: '/no/such/plugin' } }),
        ...setUpFails(/\/no\/such\/plugin|No such file/),
      },
    ],
    [
      'with a proxy that cannot be reached',
      {
        proxied: true,
        kubeconfig: ({ config, token }) => config({ token }, { 'proxy-url': 'http://127.0.0.1:1' }),
        ...apiFails(/request to localhost:\d+ failed, reason: .*refused/i),
      },
    ],
    [
      'with an exec plugin',
      { kubeconfig: ({ config, cluster, token }) => config({ exec: plugin(cluster, token) }) },
    ],
    [
      'with a proxy that NO_PROXY makes unused',
      { kubeconfig: ({ config, token }) => config({ token }, { 'proxy-url': 'http://127.0.0.1:1' }) },
    ],
    [
      'with a proxy',
      {
        proxied: true,
        also: ({ proxy }) => expect(proxy.tunnels).toBeGreaterThan(0),
      },
    ],
  ],
};

/**
 * An exec plugin that gives this token. It counts how often it was called.
 *
 * @param {{kubeconfig: string}} cluster
 * @param {string} token
 * @param {{seconds?: number}} [validity] forever if it is left out
 */
function plugin(cluster, token, { seconds } = {}) {
  const script = `${cluster.kubeconfig}-plugin.cjs`;
  const expires = seconds && `expirationTimestamp: new Date(Date.now() + ${seconds * 1000}).toISOString(),`;
  writeFileSync(
    script,
    `require('node:fs').appendFileSync(${JSON.stringify(`${script}.calls`)}, '.');
    console.log(JSON.stringify({
      apiVersion: 'client.authentication.k8s.io/v1', kind: 'ExecCredential',
      status: { ${expires ?? ''} token: ${JSON.stringify(token)} },
    }));\n`,
  );
  return {
    apiVersion: 'client.authentication.k8s.io/v1',
    command: process.execPath,
    args: [script],
    interactiveMode: 'Never',
  };
}

const pluginCalls = (cluster) => readFileSync(`${cluster.kubeconfig}-plugin.cjs.calls`, 'utf8').length;

/** A proxy for CONNECT. While `hold` is set it passes no answers on; `cut` resets its connections. */
async function startProxy() {
  const open = new Set();
  const proxy = {
    url: '',
    close: () => server.close(),
    hold: false,
    tunnels: 0,
    cut() {
      for (const socket of open) socket.resetAndDestroy();
    },
  };
  const server = createServer((client) => {
    open.add(client);
    client.once('close', () => open.delete(client)).on('error', () => {});
    client.once('data', (head) => {
      const [, host, port] = /^CONNECT ([^:]+):(\d+) /.exec(head.toString()) ?? [];
      const upstream = connect(Number(port), host === 'localhost' ? '127.0.0.1' : host, () => {
        proxy.tunnels += 1;
        client.write('HTTP/1.1 200 Connection established\r\n\r\n');
        client.pipe(upstream);
      });
      upstream
        .on('error', () => client.destroy())
        .on('data', async (data) => {
          upstream.pause();
          while (proxy.hold && !client.destroyed) await sleep(5);
          if (!client.destroyed) client.write(data);
          upstream.resume();
        });
      upstream.once('close', () => client.destroy());
      client.once('close', () => upstream.destroy());
    });
  });
  proxy.url = `http://127.0.0.1:${await listenOnLoopback(server)}`;
  return proxy;
}

/** A row's cluster and everything its steps may use. */
async function scene(row) {
  const clock = 'clock' in row ? settableClock(row.clock) : undefined;
  const hostClock = 'hostClock' in row ? settableClock(row.hostClock) : undefined;
  const cluster = await startCluster({ env: clock?.env });
  const token = 'runner-token';
  const admit = (name) =>
    cluster.post('/simulator/tokens', {
      token: name,
      user: RUNNER,
      rules: [{ apiGroups: ['*'], resources: ['*'], verbs: ['*'] }],
    });
  await admit(token);
  const proxy = row.proxied && (await startProxy());
  const config = (user, more) =>
    JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [
        {
          name: 'c',
          cluster: {
            // Only this name is not exempt from proxies.
            server: proxy ? cluster.url.replace('127.0.0.1', 'localhost') : cluster.url,
            'certificate-authority-data': readFileSync(cluster.caFile, 'base64'),
            ...(proxy && { 'proxy-url': proxy.url }),
            ...more,
          },
        },
      ],
      users: [{ name: 'u', user }],
      contexts: [{ name: 'x', context: { cluster: 'c', user: 'u', namespace: cluster.namespace } }],
      'current-context': 'x',
    });
  const kubeconfig = `${cluster.kubeconfig}-row`;
  const text = row.kubeconfig ? row.kubeconfig({ config, cluster, token }) : config({ token });
  if (text !== undefined) writeFileSync(kubeconfig, text);
  if (row.namespace) {
    await cluster.post('/api/v1/namespaces', {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: { name: row.namespace },
    });
    for (const kind of ['persistentvolumeclaims', 'secrets', 'serviceaccounts']) {
      const { items } = await cluster.get(`/api/v1/namespaces/${cluster.namespace}/${kind}`);
      for (const { metadata, status: _, ...rest } of items) {
        await cluster
          .post(`/api/v1/namespaces/${row.namespace}/${kind}`, { ...rest, metadata: { name: metadata.name } })
          .catch(() => {});
      }
    }
  }
  const last = gate();
  const options = {
    agent: { id: `agent-${randomUUID()}` },
    scenario: row.scenario ?? 'long',
    env: { CLAUDE_STAND_IN_SECONDS: String(row.seconds ?? 3), ...last.env },
    // Large enough for a Secret.
    config: {
      kubeconfig,
      promptTemplate: 'x'.repeat(120_000),
      ...(row.namespace && { namespace: row.namespace }),
      ...row.config,
    },
  };
  const { ctx, output } = hostRun(cluster, options);
  const listen = ctx.onLog;
  ctx.onLog = async (...args) => {
    await listen(...args);
    await row.onLog?.(...args);
  };
  const namespace = row.namespace ?? cluster.namespace;
  const first = async (path) => (await cluster.get(path)).items[0];
  const elsewhere = (env) => startHost(cluster, { options, env });
  return {
    cluster,
    proxy,
    clock,
    hostClock,
    token,
    admit,
    output,
    /** Lets the agent end. */
    end: last.open,
    // In another process if its clock is not this process's.
    async run() {
      if (!hostClock) return adapter.execute(ctx);
      const host = elsewhere(hostClock.env);
      Object.defineProperties(output, {
        stdout: { get: () => host.output.stdout },
        stderr: { get: () => host.output.stderr },
      });
      expect(await host.ended, host.output.errors).toEqual({ code: 0, signal: null });
      if (host.output.error) throw new Error(host.output.error);
      return host.output.result;
    },
    /** Another host starts a run of the agent and is killed during it. */
    async leaveOrphan() {
      const host = elsewhere();
      await eventually(() => host.output.stdout.includes('tick 1 of'));
      host.child.kill('SIGKILL');
      await host.ended;
    },
    namespace,
    job: () => first(`/apis/batch/v1/namespaces/${namespace}/jobs?${RUN_JOBS}`),
    pod: () =>
      first(
        `/api/v1/namespaces/${namespace}/pods?labelSelector=${encodeURIComponent('paperclip.io/agent-id')}`,
      ),
  };
}

const ticksIn = (output) => [
  ...new Set(
    agentLines(output).flatMap((line) => [...line.matchAll(/tick (\d+) of/g)].map(([, n]) => Number(n))),
  ),
];

/** How many ticks were logged: all up to the last, in order, and every line once. */
function ticksOf(output) {
  const events = agentLines(output).map((line) => JSON.parse(line));
  const uuids = events.map(({ uuid }) => uuid).filter(Boolean);
  expect(new Set(uuids).size, 'no line twice').toBe(uuids.length);
  const unique = ticksIn(output);
  expect(unique, 'none lost, all in order').toEqual(unique.map((_, index) => index + 1));
  return unique.length;
}

async function play(row) {
  const s = await scene(row);
  try {
    await row.before?.(s);
    if (row.settings) await s.cluster.post('/simulator/settings', row.settings);
    if (row.orphan) await s.leaveOrphan();
    await setFaults(...(row.faults ?? []))(s);
    const running = s.run();
    let over = false;
    const steps = (async () => {
      for (const { when, act } of row.at ?? []) {
        await eventually(() => over || when(s), { every: 10 });
        if (over) throw new Error('the run was over before all had happened to it');
        await act(s);
      }
      // A run that attaches to another's Job must find it alive.
      if (row.orphan) await eventually(() => over || s.output.stdout.includes('Reattached to pod'));
      s.end();
    })();
    const [result] = await Promise.all([
      running.finally(() => {
        over = true;
      }),
      steps,
    ]);
    expect(result, s.output.stderr).toMatchObject(row.result ?? ok);
    if (row.message) expect(result.errorMessage).toMatch(row.message);
    if (row.warning) expect(s.output.stderr).toMatch(row.warning);
    if (typeof row.ticks === 'function') {
      row.ticks(s);
    } else {
      const ticks = ticksOf(s.output);
      if (row.ticks === undefined) expect(ticks).toBe((row.seconds ?? 3) * 2);
      else if (row.ticks === 0) expect(agentLines(s.output)).toEqual([]);
      else expect(ticks).toBeGreaterThanOrEqual(row.ticks || 0);
    }
    for (const { spec, hits } of (await s.cluster.get('/simulator/faults')).faults) {
      expect(hits, `${JSON.stringify(spec)} has happened`).toBeGreaterThan(0);
    }
    const here = { ...s.cluster, namespace: s.namespace };
    // What a killed host left is deleted with its Job, a moment later.
    if (row.orphan) await eventually(async () => (await leftovers(here)).length === 0);
    if (!('left' in row) || row.left !== undefined) {
      expect(await leftovers(here)).toHaveLength(row.left ?? 0);
      if (!row.left) await eventually(async () => (await podsOf(here)).length === 0);
    }
    await row.also?.({ ...s, result });
  } finally {
    s.proxy?.close();
    await s.cluster.stop();
  }
}

let elsewhere;

beforeAll(async () => {
  // Gives this process the environment of the host's pod; the rows' clusters have a pod of the same name.
  elsewhere = await clusterForHost();
  Object.assign(process.env, { HTTPS_PROXY: 'http://127.0.0.1:1', NO_PROXY: '127.0.0.1' });
});

afterAll(async () => {
  delete process.env.HTTPS_PROXY;
  delete process.env.NO_PROXY;
  killHosts();
  await elsewhere.stop();
});

const rows = Object.entries(table).flatMap(([what, list]) =>
  list.map(([how, row]) => [`${what} ${how}`, row]),
);

describe.concurrent('a run has the right result when', () => {
  // Skipped for the reason in `noClocks`.
  const clocks = (row) => 'clock' in row || 'hostClock' in row;
  it.each(rows.filter(([, row]) => !clocks(row)))('%s', (_title, row) => play(row));
  it.skipIf(noClocks).each(rows.filter(([, row]) => clocks(row)))('%s', (_title, row) => play(row));
});
