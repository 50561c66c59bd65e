// What an agent prints.
import assert from 'node:assert/strict';

export const SESSION = '52f5bda4-560b-4700-9b15-02e72f19ed68';
export const INIT = JSON.stringify({
  type: 'system',
  subtype: 'init',
  session_id: SESSION,
  model: 'claude-x',
  uuid: 'init',
});

/** A result event, with these members instead of or beside its own. */
export const lastResult = (members = {}) =>
  JSON.stringify({
    type: 'result',
    subtype: 'success',
    is_error: false,
    result: 'done',
    session_id: SESSION,
    uuid: 'result',
    num_turns: 1,
    ...members,
  });

/** The code of an agent that prints these lines. */
export const print = (lines) =>
  `process.stdout.write(Buffer.from('${Buffer.from(`${lines.join('\n')}\n`).toString('base64')}', 'base64'))`;

/** Checks that a database can keep the result: no NUL, no lone surrogate, not much of it. */
export function assertStorable(result) {
  const text = JSON.stringify(result);
  assert(!text.includes(String.raw`\u0000`), 'NUL in the result');
  assert(!/\\ud[89a-f][0-9a-f]{2}/.test(text), 'a lone surrogate in the result');
  assert(text.length < 8 * 1024 * 1024, `a result of ${text.length} characters`);
}
