// The prompt of one context through the host's own adapter for Claude and through this one: an agent is to read the same.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createServerAdapter } from '../../../index.js';
import { clusterForHost, hostRun } from '../../support/host.js';
import { temporaryFolder } from '../../support/temporary.js';
import { lab } from '../support.js';

const SESSION = '11111111-1111-4111-8111-111111111111';
const issue = {
  id: 'i-1',
  identifier: 'PAP-1',
  title: 'Mend the roof',
  description: 'It leaks badly.',
  status: 'in_progress',
  priority: 'high',
  workMode: 'standard',
};
const comment = {
  id: 'c-1',
  body: 'Please use slate.',
  author: { type: 'user', id: 'u-1', name: 'Bo' },
  createdAt: '2026-01-01T00:00:00Z',
};
const commented = { comments: [comment], commentIds: ['c-1'], latestCommentId: 'c-1' };
const task = 'PAP-1 Mend the roof\n\nIt leaks badly.';
const base = {
  taskId: 'i-1',
  issueId: 'i-1',
  paperclipTaskMarkdown: task,
  paperclipTaskMarkdownCompact: 'PAP-1',
};

/** A context of a task whose agent was woken. */
function woken(reason, wake = {}, context = {}) {
  return { ...base, paperclipWake: { reason, issue, comments: [], ...wake }, ...context };
}

/** @type {Record<string, {context: object, resumed?: boolean, config?: object}>} */
const CONTEXTS = {
  'an assigned issue': { context: woken('issue_assigned', { checkedOutByHarness: true }) },
  'a comment': { context: woken('issue_commented', commented) },
  'a comment on a resumed session': { context: woken('issue_commented', commented), resumed: true },
  'a resumed session that nothing woke': { context: base, resumed: true },
  'a handoff': {
    context: woken('issue_assigned', {}, { paperclipSessionHandoffMarkdown: ' Half of it is done. \n' }),
  },
  planning: { context: woken('issue_assigned', { issue: { ...issue, workMode: 'planning' } }) },
  'an answered question': {
    context: woken('interaction_resolved', {
      questionResponse: {
        interactionId: 'q-1',
        answers: [{ questionId: 'a', prompt: 'Color?', text: 'Red' }],
      },
    }),
  },
  'a comment on a blocked issue': {
    context: woken('issue_commented', {
      dependencyBlockedInteraction: true,
      unresolvedBlockerIssueIds: ['i-2'],
      unresolvedBlockerSummaries: [
        { id: 'i-2', identifier: 'PAP-2', title: 'Buy slate', status: 'todo', priority: 'low' },
      ],
    }),
  },
  'a recovery': { context: woken('source_scoped_recovery_action', { recovery: { kind: 'stranded' } }) },
  'a connector skill': {
    context: woken('issue_assigned', {}, { paperclipTaskMarkdown: `${task}\n\nUse the tracker.` }),
  },
  'an external chat': {
    context: woken('External chat message received', {
      externalChatProvider: 'slack',
      checkedOutByHarness: true,
    }),
  },
  'a continuation summary': {
    context: woken('issue_continuation_needed', {
      continuationSummary: {
        key: 's',
        title: 'Summary',
        body: 'Half of it is done.',
        updatedAt: '2026-01-01T00:00:00Z',
      },
    }),
  },
  'a conversation': { context: woken('issue_commented', commented, { conversationMode: true }) },
  'configured templates': {
    context: woken('issue_assigned'),
    config: { promptTemplate: ' Go {{agent.name}}. ', bootstrapPromptTemplate: '\nHello {{agent.id}}\n' },
  },
  'a plain template': { context: {}, config: { promptTemplate: 'Go.' } },
  'no context at all': { context: {} },
};

/** What differs on purpose, with the reason: a context, and its prompt in a pod. None does. @type {Record<string, string>} */
const DIFFERENT = {};

const adapter = createServerAdapter();
let cluster;
let local;

beforeAll(async () => {
  cluster = await clusterForHost();
  const folder = path.join(lab.modules, '@paperclipai', 'adapter-claude-local');
  const { exports } = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
  const entry = pathToFileURL(path.join(folder, exports['./server'].import)).href;
  local = (await import(/* @vite-ignore */ entry)).execute;
});

afterAll(() => cluster.stop());

/** What an operator sees of a run through each adapter. */
async function metasOf({ context, resumed = false, config = {} }) {
  const cwd = temporaryFolder('prompts');
  const { ctx, output } = hostRun(cluster, {
    agent: { id: 'agent-1' },
    context,
    config: { cwd, paperclipRuntimeSkills: [], ...config },
    runtime: {
      sessionId: resumed ? SESSION : null,
      sessionParams: resumed ? { sessionId: SESSION, cwd } : null,
    },
  });
  // The run's own task is not part of every context.
  ctx.context = structuredClone(context);
  await adapter.execute(ctx);
  const [ours] = output.meta;
  let theirs;
  await local({
    ...ctx,
    context: structuredClone(context),
    config: { ...ctx.config, engine: 'cli', command: lab.cli },
    onLog: async () => {},
    onMeta: async (meta) => {
      theirs = meta;
    },
  });
  return { ours, theirs };
}

/** This adapter shows operators no value that is called a key, also where it is the name of a document. */
const shown = (/** @type {string | undefined} */ text) =>
  text?.replaceAll(/"key":"[^"]*"/g, '"key":"***REDACTED***"');

describe('the prompt and its variables are those of the own adapter of the host', () => {
  it.each(Object.entries(CONTEXTS))('for %s', async (name, given) => {
    const { ours, theirs } = await metasOf(given);
    expect(theirs.prompt.length).toBeGreaterThan(0);
    expect(ours.prompt).toBe(DIFFERENT[name] ?? theirs.prompt);
    for (const variable of ['PAPERCLIP_WAKE_PAYLOAD_JSON', 'PAPERCLIP_ISSUE_WORK_MODE', 'PAPERCLIP_TASK_ID'])
      expect(ours.env?.[variable], variable).toBe(shown(theirs.env?.[variable]));
  });
});
