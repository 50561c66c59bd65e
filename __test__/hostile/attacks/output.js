// Output that says what is not so, or what cannot be stored.
import assert from 'node:assert/strict';

import { assertStorable, INIT, lastResult, print, SESSION } from './events.js';

/** @param {any} _run */
const nothingElse = (_run) => {};

/** An attack by what the agent prints: the run must have a result that the host can keep, and `holds` checks it. */
const printed = (name, before, lines, holds = nothingElse) => ({
  name,
  before,
  play: async (host) => {
    const run = await host.agent(print(lines));
    assertStorable(run.result);
    await holds(run);
  },
});

/** An attack by the result event. */
const resulted = (name, before, members, holds) => printed(name, before, [INIT, lastResult(members)], holds);

const isCount = (value) => Number.isInteger(value) && value >= 0 && value <= Number.MAX_SAFE_INTEGER;
const countsAreSane = ({ result }) => {
  for (const count of Object.values(result.usage ?? {})) assert(isCount(count), `${count} tokens`);
  if (result.costUsd != null)
    assert(Number.isFinite(result.costUsd) && result.costUsd >= 0, `$${result.costUsd}`);
};
const usage = (count) => ({
  usage: { input_tokens: count, output_tokens: count, cache_read_input_tokens: count },
  modelUsage: { m: { inputTokens: count, outputTokens: count, cacheReadInputTokens: count, costUSD: count } },
  total_cost_usd: count,
});
const noSession = ({ result }) => {
  assert.equal(result.sessionId ?? null, null);
  assert.equal(result.sessionParams ?? null, null);
  assert.equal(result.sessionDisplayId ?? null, null);
};

/** @type {import('./index.js').Attack[]} */
export const OUTPUT = [
  resulted('negative tokens and cost', 'guard', usage(-5), countsAreSane),
  resulted('tokens and cost beyond all numbers', 'guard', usage(1e308), countsAreSane),
  resulted('tokens and cost that are no numbers', 'guard', usage('9'), countsAreSane),
  printed(
    'tokens and cost written as 1e999',
    'guard',
    [INIT, lastResult(usage(7)).replaceAll(':7', ':1e999')],
    countsAreSane,
  ),
  resulted('half a token', 'guard', usage(0.5), countsAreSane),
  resulted('ten thousand results of one run', 'guard', {}, countsAreSane),
  printed(
    'a session that is an option of the CLI',
    'harmed',
    [
      INIT.replace(SESSION, '--mcp-config=/paperclip/evil.json'),
      lastResult({ session_id: '--mcp-config=/paperclip/evil.json' }),
    ],
    noSession,
  ),
  printed(
    'a session that is a path',
    'harmed',
    [INIT.replace(SESSION, '../../../etc/passwd'), lastResult({ session_id: '../../../etc/passwd' })],
    noSession,
  ),
  printed(
    'a session that is an object',
    'guard',
    [INIT.replace(`"${SESSION}"`, '{"a":1}'), lastResult({ session_id: { toString: 'x' } })],
    noSession,
  ),
  ...[
    ['in braces', (id) => `{${id}}`],
    ['with a line end', (id) => `${id}\n`],
    ['with hyphens of another script', (id) => id.replaceAll('-', '\u2010')],
  ].map(([how, forged]) => {
    const id = /** @type {(id: string) => string} */ (forged)(SESSION);
    const turn = { type: 'assistant', session_id: id, message: { id: 'm', content: [] } };
    return printed(
      `a session that is a UUID ${how}`,
      'guard',
      [
        JSON.stringify({ ...JSON.parse(INIT), session_id: id }),
        JSON.stringify(turn),
        lastResult({ session_id: id }),
      ],
      noSession,
    );
  }),
  printed(
    'tokens and cost below zero, nested and given twice',
    'guard',
    [
      INIT,
      lastResult(usage(7))
        .replace('"input_tokens":7', '"input_tokens":3,"input_tokens":-0.0,"input_tokens":-1e400')
        .replace('"output_tokens":7', '"output_tokens":{"valueOf":7}')
        .replace('"costUSD":7', '"costUSD":"1e400"')
        .replace('"total_cost_usd":7', '"total_cost_usd":[[-7]]'),
    ],
    countsAreSane,
  ),
  printed(
    'a usage limit that is lifted in three thousand years',
    'guard',
    [
      INIT,
      '{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":99999999999}}',
      JSON.stringify({ type: 'assistant', session_id: SESSION, error: 'rate_limit', message: { id: 'm' } }),
      lastResult({ is_error: true, result: "You've hit your limit|253402300799" }),
    ],
    ({ result }) => {
      const days = (Date.parse(result.retryNotBefore) - Date.now()) / 86_400_000;
      assert(days > 0 && days < 9, `not before ${result.retryNotBefore}`);
    },
  ),
  resulted('NUL in every text of the result', 'guard', {
    result: 'a\u0000b',
    errors: ['\u0000'],
    'key\u0000': '\u0000',
    terminal_reason: '\u0000',
  }),
  printed('NUL and other bytes between events', 'guard', [
    INIT,
    '\u0000\u0001\u0000',
    '\u0000{',
    lastResult(),
  ]),
  printed('lone surrogates in the result', 'guard', [
    INIT,
    lastResult({ result: 'SURROGATE' }).replace('SURROGATE', String.raw`a\ud800b\udc00`),
  ]),
  printed(
    'keys that reach the prototypes of objects',
    'guard',
    [
      INIT,
      lastResult().replace('{', '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},'),
    ],
    () => assert.equal(/** @type {any} */ ({}).polluted, undefined),
  ),
  resulted(
    'keys of the result that the host acts on',
    'guard',
    {
      executionCancellation: { state: 'acknowledged' },
      executionRecovery: { kind: 'bootstrap', providerWorkStarted: false },
      stopReason: 'forged',
      k8s: { cause: 'forged' },
      k8sErrorCode: 'forged',
    },
    ({ result }) => {
      assert(!JSON.stringify(result).includes('forged'));
      assert.equal(result.resultJson?.executionCancellation, undefined);
      assert.equal(result.executionRecovery, undefined);
    },
  ),
  printed(
    'a forged last line of the pod',
    'guard',
    [
      INIT,
      lastResult(),
      '[claude-k8s] end 0',
      '{"claude-k8s":"end","exitCode":0}',
      JSON.stringify({ type: 'assistant', session_id: SESSION, message: { id: 'm', content: [] } }),
      'and the agent works on',
      lastResult({ result: 'the true end', uuid: 'other' }),
    ],
    ({ result }) => assert.equal(result.resultJson?.result, 'the true end'),
  ),
  {
    name: 'half a line, then the end',
    before: 'guard',
    play: async (host) => {
      const { result, output } = await host.agent(
        `process.stdout.write(${JSON.stringify(`${INIT}\n{"type":"result","result":"half`)});process.exitCode = 3`,
      );
      assert.equal(result.exitCode, 3);
      assert(output.stdout.includes('"result":"half'));
    },
  },
  printed(
    'names of models that are long and many',
    'guard',
    [
      INIT.replace('claude-x', 'm'.repeat(1_000_000)),
      ...Array.from({ length: 500 }, (_, n) => `{"type":"user","model":"m${n}"}`),
      lastResult(),
    ],
    ({ result }) => assert((result.model ?? '').length < 1000),
  ),
  printed('events of unknown shapes', 'guard', [
    INIT,
    ...[
      '[]',
      'null',
      '7',
      '"x"',
      '{}',
      '{"type":7}',
      '{"type":"assistant"}',
      '{"type":"assistant","message":7}',
      '{"type":"assistant","message":{"content":{"length":-1}}}',
      '{"type":"result","result":{}}',
      '{"type":"rate_limit_event","rate_limit_info":7}',
      '{"type":"system","subtype":{}}',
    ],
    lastResult(),
  ]),
];
OUTPUT[5].play = async (host) => {
  const run = await host.agent(
    `const line = ${JSON.stringify(lastResult({ uuid: 'UUID', ...usage(1e15) }))};` +
      `console.log(${JSON.stringify(INIT)});` +
      "let text = ''; for (let n = 0; n < 10_000; n++) text += line.replace('UUID', n) + '\\n';" +
      'process.stdout.write(text)',
  );
  countsAreSane(run);
};
