// A host whose callbacks never settle, or fail in ways of their own.
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';

import { INIT, lastResult } from './events.js';

const never = () => new Promise(() => {});
/** An agent that prints lines without end. */
const TALKS = `console.log(${JSON.stringify(INIT)}); setInterval(() => console.log('line '.repeat(2000)), 20)`;
/** An agent that ends at once. */
const ENDS = `console.log(${JSON.stringify(INIT)}); console.log(${JSON.stringify(lastResult())})`;

/** A run that is cancelled a moment after `callback` was called the first time: it must resolve, and its Job must go. */
const cancelled = (name, before, callback, { answer = never, acknowledged = true } = {}) => ({
  name,
  before,
  play: async (host) => {
    const abort = new AbortController();
    let called = () => {};
    const first = new Promise((resolve) => {
      called = () => resolve(undefined);
    });
    const options = {
      signal: abort.signal,
      [callback]: () => {
        called();
        return answer();
      },
    };
    const running = host.agent(TALKS, options);
    await Promise.race([first, running]);
    await sleep(500);
    abort.abort();
    const { result, runId } = await running;
    const state = result.resultJson?.executionCancellation?.state;
    assert.equal(state, acknowledged ? 'acknowledged' : undefined, JSON.stringify(result));
    await host.assertNothingIsLeft(runId);
  },
});

/** A run that ends well although a callback misbehaves. */
const survives = (name, before, options) => ({
  name,
  before,
  play: async (host) => {
    const { result } = await host.agent(ENDS, options());
    assert.equal(result.errorMessage, null, JSON.stringify(result));
  },
});

const thrown = [
  [
    'an error whose text cannot be read',
    Object.defineProperty(new Error('x'), 'message', {
      get: () => {
        throw new Error('y');
      },
    }),
  ],
  ['an object without a prototype', Object.create(null)],
  ['a symbol', Symbol('x')],
  ['nothing', undefined],
];

/** @type {import('./index.js').Attack[]} */
export const CALLBACKS = [
  cancelled('onLog never settles, and the run is cancelled', 'harmed', 'onLog'),
  cancelled('onMeta never settles, and the run is cancelled', 'guard', 'onMeta'),
  cancelled('onEvent never settles, and the run is cancelled', 'guard', 'onEvent'),
  cancelled('onCancellationReady never settles, and the run is cancelled', 'harmed', 'onCancellationReady'),
  cancelled('onRuntimeProgress never settles, and the run is cancelled', 'guard', 'onRuntimeProgress'),
  {
    name: 'onLog never settles, and the time limit is reached',
    before: 'harmed',
    play: async (host) => {
      const { result, runId } = await host.agent(TALKS, {
        onLog: never,
        config: { timeoutSec: 3, graceSec: 1 },
      });
      assert.equal(result.timedOut, true, JSON.stringify(result));
      await host.assertNothingIsLeft(runId);
    },
  },
  ...thrown.map(([what, error]) =>
    survives(`onLog throws ${String(what)}`, 'guard', () => ({
      onLog: () => {
        throw error;
      },
    })),
  ),
  survives('onLog gives a promise of its own that throws', 'guard', () => ({
    onLog: () => ({
      // oxlint-disable-next-line unicorn/no-thenable -- that is the attack
      then: () => {
        throw new Error('then');
      },
    }),
  })),
  survives('onRuntimeProgress throws', 'guard', () => ({
    onRuntimeProgress: () => {
      throw Object.create(null);
    },
  })),
  survives('onLog rejects with a text of 32 MiB', 'guard', () => {
    const error = new Error('x'.repeat(32 * 1024 * 1024));
    return { onLog: () => Promise.reject(error) };
  }),
];
