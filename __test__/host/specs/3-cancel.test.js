// A cancel by the board: the host waits for the adapter's acknowledgement, and the task is not held.
import { beforeAll, describe, expect, it } from 'vitest';

import {
  api,
  ended,
  installed,
  newAgent,
  newCompany,
  newIssue,
  objectsOf,
  seen,
  started,
  wake,
  wakeFor,
} from '../support.js';

let company;
beforeAll(async () => {
  await installed();
  company = await newCompany('Cancels');
});

const cancel = ({ id }) => api('POST', `/heartbeat-runs/${id}/cancel`);

describe('a running run that is cancelled', () => {
  it('is acknowledged once its Job and pod are gone, and its task is free again', async () => {
    const agent = await newAgent(company, 'Ada', {
      scenario: 'long',
      env: { CLAUDE_STAND_IN_SECONDS: '300' },
    });
    const issue = await newIssue(company, agent, 'Take your time');
    const run = await started(issue, agent);
    await seen(run, 'tick 2 of');
    expect(await objectsOf(agent)).toMatchObject({ jobs: [{}], pods: [{ status: { phase: 'Running' } }] });

    expect(await cancel(run)).toMatchObject({
      status: 'cancelled',
      errorCode: 'cancelled',
      resultJson: {
        executionCancellation: { state: 'acknowledged' },
        executionRecovery: {
          kind: 'interrupted',
          providerStopped: true,
          sessionPreserved: true,
          actionOutcomes: 'settled',
        },
      },
    });
    expect(await objectsOf(agent)).toEqual({ jobs: [], pods: [] });
    expect(await api('GET', `/issues/${issue.id}/recovery-actions`)).toEqual({ active: null, actions: [] });
    expect(await api('GET', `/issues/${issue.id}`)).toMatchObject({
      status: 'in_progress',
      executionRunId: null,
    });

    // The task is not held: its next run starts.
    await api('PATCH', `/agents/${agent.id}`, {
      adapterConfig: { ...agent.adapterConfig, env: { CLAUDE_STAND_IN_SCENARIO: 'success' } },
    });
    expect(await ended(await wakeFor(issue, agent))).toMatchObject({ status: 'succeeded' });
  });

  it('is cancelled as well before its pod has started', async () => {
    // More than any node has.
    const agent = await newAgent(company, 'Waiting', {
      config: {
        'resources.requests.memory': '90000Gi',
        'resources.limits.memory': '90000Gi',
        unschedulableGraceSec: 300,
      },
    });
    const run = await wake(agent);
    await seen(run, 'Waiting for pod');
    expect(await cancel(run)).toMatchObject({
      status: 'cancelled',
      resultJson: { executionCancellation: { state: 'acknowledged' } },
    });
    expect(await ended(run)).toMatchObject({ status: 'cancelled' });
    expect(await objectsOf(agent)).toEqual({ jobs: [], pods: [] });
  });
});
