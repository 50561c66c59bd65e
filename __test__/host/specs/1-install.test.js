// Installation through the host's API: by name from the tarballs of a release, and from a local path.
import { describe, expect, it } from 'vitest';

import { getConfigSchema } from '../../../js/config-schema.js';
import { TYPE, api, install, lab, newAgent, newCompany, oneRun, order } from '../support.js';

const { name, version } = lab.packed;

describe('the adapter, installed by its name', () => {
  it('comes from the tarball of npm pack and is registered at once', async () => {
    await expect(install()).resolves.toMatchObject({ type: TYPE, packageName: name, version });
    const asked = await order('registry/asked');
    expect(asked).toContain(name);
    expect(asked).toContainEqual(expect.stringMatching(/^paperclip-adapter-claude-k8s-\w+-\w+/));
    expect(await api('GET', `/adapters/${TYPE}`)).toMatchObject({
      source: 'external',
      loaded: true,
      disabled: false,
      version,
      packageName: name,
      capabilities: { supportsInstructionsBundle: true, supportsSkills: true, supportsLocalAgentJwt: true },
    });
  });

  it('gives the host its configuration fields', async () => {
    expect(await api('GET', `/adapters/${TYPE}/config-schema`)).toEqual(getConfigSchema());
  });

  it('gives the UI a parser that the UI can evaluate', async () => {
    const source = await api('GET', `/adapters/${TYPE}/ui-parser.js`);
    const exports = {};
    // As in the host's worker.
    new Function('exports', 'module', 'self', 'globalThis', `'use strict';${source}`)(
      exports,
      { exports },
      {},
      {},
    );
    expect(exports.parseStdoutLine('plain', 'now')).toEqual([{ kind: 'stdout', ts: 'now', text: 'plain' }]);
  });

  it('can be installed a second time', async () => {
    await expect(install()).resolves.toMatchObject({ version, requiresRestart: true });
  });
});

describe('the adapter, installed from a local path', () => {
  it('runs an agent, and is replaced by the packed one again', async () => {
    const local = await order('local/make');
    await api('DELETE', `/adapters/${TYPE}`);
    await expect(api('GET', `/adapters/${TYPE}`)).rejects.toThrow('404');

    await expect(
      api('POST', '/adapters/install', { packageName: local, isLocalPath: true }),
    ).resolves.toMatchObject({
      type: TYPE,
      version,
    });
    expect(await api('GET', `/adapters/${TYPE}`)).toMatchObject({ isLocalPath: true, version });
    const agent = await newAgent(await newCompany('Local path'), 'Ada');
    expect(await oneRun(agent)).toMatchObject({ status: 'succeeded', exitCode: 0 });

    await api('DELETE', `/adapters/${TYPE}`);
    await expect(install()).resolves.toMatchObject({ packageName: name });
    expect(await api('GET', `/adapters/${TYPE}`)).not.toHaveProperty('isLocalPath');
    expect(await oneRun(agent)).toMatchObject({ status: 'succeeded', exitCode: 0 });
  });
});
