import { describe, expect, it } from 'vitest';

import { requestOf } from '../../js/request.js';

/**
 * The headers that the CLI of an agent gets.
 *
 * @param {{env?: object, agentId?: string, hostEnv?: NodeJS.ProcessEnv}} [given]
 */
function headersOf({ env, agentId = 'agent-1', hostEnv = {} } = {}) {
  const config = env === undefined ? {} : { env };
  const request = JSON.parse(requestOf({ agent: { id: agentId }, config }, hostEnv));
  return request.config.env?.ANTHROPIC_CUSTOM_HEADERS;
}

describe('the headers of the CLI', () => {
  it('name the agent', () => {
    expect(headersOf()).toBe('X-Anthropic-Agent-Id: agent-1');
    expect(headersOf({ env: { A: '1' } })).toBe('X-Anthropic-Agent-Id: agent-1');
    expect(headersOf({ env: { ANTHROPIC_CUSTOM_HEADERS: 'X-Team: a' } })).toBe(
      'X-Team: a\nX-Anthropic-Agent-Id: agent-1',
    );
  });

  it('have what was configured', () => {
    const own = 'X-Team: a\n x-anthropic-agent-id : mine';
    expect(headersOf({ env: { ANTHROPIC_CUSTOM_HEADERS: own } })).toBe(own);
    const reference = { type: 'secret_ref' };
    expect(headersOf({ env: { ANTHROPIC_CUSTOM_HEADERS: reference } })).toEqual(reference);
  });

  it('of the pod of the host stay', () => {
    expect(headersOf({ hostEnv: { ANTHROPIC_CUSTOM_HEADERS: 'X-Team: a' } })).toBeUndefined();
  });

  it('cannot be forged by an id', () => {
    expect(headersOf({ agentId: ' a\r\nX-Evil: 1\u0000 ' })).toBe('X-Anthropic-Agent-Id: aX-Evil: 1');
    expect(headersOf({ agentId: '$(SECRET)' })).toBe('X-Anthropic-Agent-Id: $$(SECRET)');
    expect(headersOf({ agentId: 'x'.repeat(1000) })).toHaveLength('X-Anthropic-Agent-Id: '.length + 256);
    expect(headersOf({ agentId: '\n' })).toBeUndefined();
    expect(JSON.parse(requestOf({ config: undefined })).config).toBeUndefined();
  });
});

describe('the MCP servers of the host', () => {
  it('are part of the request', () => {
    const servers = [{ name: 'tools', url: 'http://host/mcp', token: 't', connectionId: 'c' }];
    expect(JSON.parse(requestOf({ runtimeMcp: { getServers: () => servers } })).mcpServers).toEqual(servers);
    for (const older of [{}, { runtimeMcp: undefined }, { runtimeMcp: {} }])
      expect(JSON.parse(requestOf(older))).not.toHaveProperty('mcpServers');
  });
});

it('the request says whether the host has cards', () => {
  expect(JSON.parse(requestOf({ onRuntimeProgress: () => {} })).hasCards).toBe(true);
  expect(JSON.parse(requestOf({})).hasCards).toBe(false);
});
