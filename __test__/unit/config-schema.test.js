import { describe, expect, it } from 'vitest';

import { getConfigSchema } from '../../js/config-schema.js';

/** Form order: key, type, and the default where there is one. */
const FORM = [
  ['maxTurnsPerRun', 'number', 1000],
  ['serviceAccountName', 'text'],
  ['namespace', 'text'],
  ['image', 'text'],
  ['imagePullPolicy', 'select'],
  ['kubeconfig', 'text'],
  ['ttlSecondsAfterFinished', 'number'],
  ['retainJobs', 'toggle'],
  ['reattachOrphanedJobs', 'toggle', true],
  ['resources.requests.cpu', 'text'],
  ['resources.requests.memory', 'text'],
  ['resources.limits.cpu', 'text'],
  ['resources.limits.memory', 'text'],
  ['nodeSelector', 'textarea'],
  ['tolerations', 'textarea'],
  ['labels', 'textarea'],
  ['enableRtk', 'toggle', false],
  ['rtkMaxOutputBytes', 'number', 50000],
  ['hostShutdown', 'select'],
  ['unschedulableGraceSec', 'number', 0],
  ['imagePullGraceSec', 'number', 60],
  ['resultGraceSec', 'number', 60],
  ['apiOutageSec', 'number', 600],
  ['podStartTimeoutSec', 'number', 600],
  ['queueTimeoutSec', 'number', 0],
  ['announceHarness', 'toggle', true],
  ['claudeHome', 'select', 'shared'],
  ['inheritScheduling', 'toggle', true],
  ['priorityClassName', 'text'],
  ['runtimeClassName', 'text'],
  ['imagePullSecrets', 'text'],
  ['podAnnotations', 'textarea'],
  ['terminationGracePeriodSeconds', 'number'],
  ['runAsUser', 'number'],
  ['fsGroup', 'number'],
  ['paperclipApiUrl', 'text'],
  ['podTemplate', 'textarea'],
  ['mcpServers', 'textarea'],
  ['testWithJob', 'toggle', false],
];

const { fields } = getConfigSchema();
const field = (key) => fields.find((candidate) => candidate.key === key);
/** The options of a select field. */
function optionsOf(key, among = fields) {
  const found = among.find((candidate) => candidate.key === key);
  return found?.type === 'select' ? found.options : undefined;
}

describe('getConfigSchema', () => {
  it('lists the form in order, with types and defaults', () => {
    expect(
      fields.map(({ key, type, ...rest }) => ('default' in rest ? [key, type, rest.default] : [key, type])),
    ).toEqual(FORM);
  });

  it('gives every field a label, a hint and no unused key', () => {
    for (const { key, type, label, hint, ...rest } of fields) {
      expect(label.trim(), key).toBe(label);
      expect(label, key).not.toBe('');
      expect(hint.length, key).toBeGreaterThan(10);
      const allowed = type === 'select' ? ['default', 'meta', 'options'] : ['default', 'meta'];
      expect(allowed, key).toEqual(expect.arrayContaining(Object.keys(rest)));
    }
    expect(new Set(fields.map(({ label }) => label)).size).toBe(fields.length);
  });

  it('offers three pull policies and preselects none', () => {
    expect(optionsOf('imagePullPolicy')).toEqual(
      ['IfNotPresent', 'Always', 'Never'].map((value) => ({ label: value, value })),
    );
  });

  it('offers both ways to shut down, and first the one that is no choice', () => {
    // Today's host stores the first option of a field that was not touched, unless it is empty.
    expect(optionsOf('hostShutdown')?.map(({ value }) => value)).toEqual(['', 'delete', 'leave']);
  });

  it('shows a field only where it means something', () => {
    const conditions = fields.filter(({ meta }) => meta).map(({ key, meta }) => [key, meta?.visibleWhen]);
    expect(conditions).toEqual([['rtkMaxOutputBytes', { key: 'enableRtk', value: 'true' }]]);
    for (const [, condition] of conditions) {
      expect(field(/** @type {{key: string}} */ (condition).key)).toBeDefined();
    }
  });

  it('has no field that the host has itself', () => {
    for (const key of [
      'model',
      'effort',
      'instructionsFilePath',
      'timeoutSec',
      'graceSec',
      'dangerouslySkipPermissions',
    ]) {
      expect(field(key), key).toBeUndefined();
    }
  });

  it.each([
    ['maxTurnsPerRun', /0 .*unlimited/i],
    ['ttlSecondsAfterFinished', /0 or unset: 300/],
    ['resources.requests.cpu', /100m.*0\.5.*1/],
    ['resources.limits.memory', /128Mi.*512Mi.*1Gi/],
    ['nodeSelector', /key=value/],
    ['labels', /key=value/],
    ['tolerations', /JSON array/],
    ['enableRtk', /PostToolUse.*~\/\.claude\/settings\.json/],
    ['unschedulableGraceSec', /autoscaler/],
    ['imagePullGraceSec', /10 s, 30 s and 70 s.*0: fail/],
    ['resultGraceSec', /after its result.*deleted/],
    ['apiOutageSec', /Job is then kept/],
    ['podStartTimeoutSec', /Each step begins the time anew/],
    ['queueTimeoutSec', /0: as long as the queue takes/],
  ])('tells the facts about %s', (key, fact) => {
    expect(field(key)?.hint).toMatch(fact);
  });

  it('is plain data, new on each call', () => {
    expect(JSON.parse(JSON.stringify(getConfigSchema()))).toEqual(getConfigSchema());
    optionsOf('imagePullPolicy', getConfigSchema().fields)?.splice(0);
    getConfigSchema().fields.length = 0;
    expect(getConfigSchema()).toEqual({ fields });
    expect(getConfigSchema().fields).not.toBe(getConfigSchema().fields);
  });
});
