import { AsyncResource } from 'node:async_hooks';

import { binding } from './binding.js';
import { errText } from './errors.js';

/**
 * What a run asks of the host. `log` and `meta` may throw or reject.
 *
 * @typedef {{
 *   log: (stream: 'stdout' | 'stderr', chunk: string) => unknown,
 *   meta: (meta: any) => unknown,
 *   prepare: () => Promise<string>,
 *   bundle: (order: string) => Promise<string>,
 * }} HostOfRun
 * @typedef {HostOfRun & {
 *   context: AsyncResource,
 *   chunks: any[],
 *   telling: boolean,
 *   resolve: (result: unknown) => void,
 *   reject: (error: Error) => void,
 * }} Run
 */

/** The runs under way, by number. @type {Map<number, Run>} */
const runs = new Map();
let lastRun = 0;

/** The native half reaches this environment through one function, whatever the number of runs. */
const desk = new binding.Desk(look);
/** Holds the process open while there are runs; the desk does not. */
const held = setInterval(() => {}, 2 ** 31 - 1).unref();

/**
 * Starts a run of the native half; resolves to its result.
 *
 * @param {string} request
 * @param {import('./generated/binding.js').RunControl} control
 * @param {HostOfRun} host
 */
export function start(request, control, host) {
  return new Promise((resolve, reject) => {
    lastRun = (lastRun + 1) % 2 ** 32;
    // The host's callbacks are called in the asynchronous context of its call.
    const context = new AsyncResource('claude_k8s');
    runs.set(lastRun, { ...host, context, chunks: [], telling: false, resolve, reject });
    held.ref();
    try {
      binding.execute(request, control, desk, lastRun);
    } catch (error) {
      end(lastRun)?.reject(/** @type {Error} */ (error));
    }
  });
}

/** @param {number} number */
function end(number) {
  const run = runs.get(number);
  runs.delete(number);
  if (runs.size === 0) held.unref();
  run?.context.emitDestroy();
  return run;
}

/** The desk's numbers for kinds, as names. */
const KINDS = binding.Desk.kinds();
/** Questions taken at once: about a millisecond's work, then the event loop has its turn. */
const MOST = 128;
/** Whether there is more, then three numbers for each question. */
const heads = new Uint32Array(1 + 3 * MOST);

/** Takes what waits on the desk. */
function look() {
  const texts = desk.take(heads);
  const more = heads[0];
  for (let n = 0, at = 1; n < texts.length; n++, at += 3) {
    const call = /** @type {number} */ (heads[at]);
    const number = /** @type {number} */ (heads[at + 1]);
    const kind = KINDS[/** @type {number} */ (heads[at + 2])];
    const text = /** @type {string} */ (texts[n]);
    // The engine moves what is alive when it collects: a chunk is not to be for longer than the host wants it.
    texts[n] = '';
    if (kind === 'result') end(number)?.resolve(JSON.parse(text));
    else if (kind === 'error') end(number)?.reject(new Error(text));
    else {
      const run = runs.get(number);
      if (!run) continue;
      if (kind === 'stdout' || kind === 'stderr') {
        run.chunks.push(call, kind, text);
        if (!run.telling) run.context.runInAsyncScope(tell, undefined, run);
      } else run.context.runInAsyncScope(answer, undefined, run, call, kind, text);
    }
  }
  if (more) setImmediate(look);
}

/**
 * Calls the host's `onLog` for what the run has to tell, chunk by chunk, until there is no more.
 *
 * @param {Run} run
 */
async function tell(run) {
  run.telling = true;
  while (run.chunks.length > 0) {
    const { chunks } = run;
    run.chunks = [];
    for (let at = 0; at < chunks.length; at += 3) {
      const text = chunks[at + 2];
      chunks[at + 2] = undefined;
      try {
        await run.log(chunks[at + 1], text);
        done(chunks[at]);
      } catch (error) {
        desk.fail(chunks[at], errText(error));
      }
    }
  }
  run.telling = false;
}

/**
 * @param {Run} run
 * @param {number} call
 * @param {string} kind
 * @param {any} text
 */
async function answer(run, call, kind, text) {
  try {
    if (kind === 'meta') {
      await run.meta(JSON.parse(text));
      done(call);
    } else {
      desk.answer(call, await (kind === 'prepare' ? run.prepare() : run.bundle(text)));
    }
  } catch (error) {
    desk.fail(call, errText(error));
  }
}

const answered = new Uint32Array(MOST);
let answers = 0;

/** Says that a question is answered; all that are answered in this turn go back at once. @param {number} call */
function done(call) {
  if (answers === 0) process.nextTick(flush);
  answered[answers] = call;
  answers += 1;
  if (answers === answered.length) flush();
}

function flush() {
  if (answers > 0) desk.done(answered, answers);
  answers = 0;
}
