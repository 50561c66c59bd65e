import { describe, expect, it, vi } from 'vitest';

import * as utils from '../../js/host-utils.js';

describe('host-utils', () => {
  it('re-exports the helpers of the installed host', async () => {
    const host = await import('@paperclipai/adapter-utils/server-utils');
    const { optionalHostHelper, isSkillSourceMissing: _own, desiredSkillNames: _too, ...handedOn } = utils;
    for (const [name, helper] of Object.entries(handedOn)) {
      expect(helper, name).toBeTypeOf('function');
      expect(helper, name).toBe(host[name]);
    }
    expect(optionalHostHelper('renderPaperclipWakePrompt')).toBe(host.renderPaperclipWakePrompt);
    // @ts-expect-error a name that this version of the host does not have
    expect(optionalHostHelper('helperOfTheFuture')).toBeUndefined();
  });

  it('works with a host that lacks the newer helpers', async () => {
    vi.resetModules();
    vi.doMock('@paperclipai/adapter-utils/server-utils', () => ({ asString: () => 'old host' }));
    try {
      const old = await import('../../js/host-utils.js');
      expect(old.optionalHostHelper('isPaperclipSkillSourceMissing')).toBeUndefined();
      expect(old.optionalHostHelper('asString')?.('', '')).toBe('old host');
      expect(old.isSkillSourceMissing({ key: 'k', runtimeName: 'r', source: '/s' })).toBe(false);
    } finally {
      vi.doUnmock('@paperclipai/adapter-utils/server-utils');
      vi.resetModules();
    }
  });

  it('lets a newer host say whether a skill is missing', () => {
    const entry = { key: 'k', runtimeName: 'r', source: '/s' };
    expect(utils.isSkillSourceMissing({ ...entry, sourceStatus: 'missing' })).toBe(true);
    expect(utils.isSkillSourceMissing({ ...entry, sourceStatus: 'available' })).toBe(false);
  });
});
