// The helpers of 0.1.49 that the addon exports with the feature `compat`: how arguments and answers cross. What they do
// is tested in Rust, and by the tests of 0.1.49 themselves.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { renderPrompts } from '../../js/prepare.js';
import { requestOf } from '../../js/request.js';
import { clusterForHost, eventually, hostRun, leftovers } from '../support/host.js';
import { createServerAdapter } from '../../index.js';
import { binding } from './compat.js';

const INIT = '{"type":"system","subtype":"init","session_id":"s","model":"m"}';

describe('pure helpers', () => {
  it('answer null and plain objects', () => {
    expect(binding.extractClaudeLoginUrl('none')).toBeNull();
    expect(binding.sanitizeLabelValue('@@@')).toBeNull();
    expect(binding.sanitizeLabelValue('abcdef', 3)).toBe('abc');
    expect(binding.describeClaudeFailure('null')).toBeNull();
    expect(binding.eventDedupKey(INIT)).toBe('system:init:s');
    expect(binding.parseClaudeStreamJson(`${INIT}\n`)).toEqual({
      sessionId: 's',
      model: 'm',
      costUsd: null,
      usage: null,
      summary: '',
      resultJson: null,
      llmApiEmptyResponse: false,
      truncatedMidStream: false,
    });
    expect(binding.detectClaudeLoginRequired('null', 'please log in', '')).toEqual({
      requiresLogin: true,
      loginUrl: null,
    });
    expect(binding.describeTruncationCause('null')).toMatch(/^pod state unavailable/);
    expect(binding.describeTruncationCause('{"exitCode":null,"reason":"Error"}')).toBe(
      'no exit code, reason=Error',
    );
    expect(binding.buildPartialRunError(null, '', 'oops', '{"signal":9}')).toBe(
      'Claude exited with code -1: oops [pod: signal=9]',
    );
    expect(binding.classifyOrphan('{}', undefined, null)).toBe('block_task_unknown');
    expect(binding.isNotFoundMessage('HTTP-Code: 404 Message: gone')).toBe(true);
    expect(binding.shouldAbortForCancellation(undefined)).toBe(false);
  });

  it('name the argument that is not JSON', () => {
    expect(() => binding.describeTruncationCause('{')).toThrow(/^state: /);
  });

  it('keep the state of a filter', () => {
    const filter = new binding.LogLineDedupFilter();
    expect(filter.filter(`${INIT}\n${INIT}\npla`)).toBe(`${INIT}\n`);
    expect(filter.filter('in\nrest')).toBe('plain\n');
    expect(filter.flush()).toBe('rest');
  });

  it('make a manifest of exactly eight members', () => {
    const ctx = /** @type {any} */ ({
      runId: 'run-1',
      agent: { id: 'agent-1', companyId: 'c', name: 'Ada' },
      config: {},
      context: {},
    });
    /** @type {any} */
    const manifest = binding.buildJobManifest(
      requestOf(ctx),
      JSON.stringify({ namespace: 'paperclip', image: 'host:1' }),
      JSON.stringify(renderPrompts(ctx)),
      'null',
    );
    expect(Object.keys(manifest)).toEqual([
      'job',
      'jobName',
      'namespace',
      'prompt',
      'claudeArgs',
      'promptMetrics',
      'promptSecret',
      'skippedLabels',
    ]);
    expect(manifest.job.metadata.name).toBe(manifest.jobName);
    expect(manifest.promptSecret).toBeNull();
    expect(manifest.promptMetrics.promptChars).toBe(manifest.prompt.length);
  });
});

describe('helpers that need a cluster', () => {
  let cluster;
  beforeAll(async () => {
    cluster = await clusterForHost();
  });
  afterAll(async () => {
    expect(await leftovers(cluster)).toEqual([]);
    await cluster.stop();
  });

  it('read the host’s own pod', async () => {
    const info = await binding.getSelfPodInfo(requestOf({ config: { kubeconfig: cluster.kubeconfig } }));
    expect(info).toMatchObject({
      namespace: cluster.namespace,
      image: expect.any(String),
      inheritedEnv: expect.any(Object),
    });
  });

  it('follow a log once, to its end, without its stamps', async () => {
    const { ctx, output } = hostRun(cluster, { env: { CLAUDE_STAND_IN_DELAY_MS: '500' } });
    const run = createServerAdapter().execute(ctx);
    const pod = await eventually(() => /Pod running: (\S+)/.exec(output.stdout)?.[1]);
    const control = new binding.RunControl();
    const order = { kubeconfig: cluster.kubeconfig, hostEnv: process.env, namespace: cluster.namespace, pod };
    let text = '';
    await binding.streamPodLogsOnce(JSON.stringify(order), control, async (stream, chunk) => {
      expect(stream).toBe('stdout');
      text += chunk;
    });
    control.release();
    await run;
    // A run keeps the pod's own last line to itself.
    const printed = text.split('\n').filter((line) => line && !line.includes('"paperclip_end"'));
    expect(printed).toEqual(
      output.stdout.split('\n').filter((line) => line && !line.startsWith('[paperclip]')),
    );
  });

  it('stop following a log when they are cancelled', async () => {
    const control = new binding.RunControl();
    control.cancel();
    const order = {
      kubeconfig: cluster.kubeconfig,
      hostEnv: process.env,
      namespace: cluster.namespace,
      pod: 'none',
    };
    await expect(
      binding.streamPodLogsOnce(JSON.stringify(order), control, async () => undefined),
    ).rejects.toThrow();
  });
});
