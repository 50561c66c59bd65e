import { AsyncResource } from 'node:async_hooks';

import { binding } from './binding.js';
import { errText } from './errors.js';

/**
 * What a run asks of its host. Every member may throw or reject.
 *
 * @typedef {{
 *   log: (stream: 'stdout' | 'stderr', chunk: string) => unknown,
 *   meta: (meta: any) => unknown,
 *   event: (event: any) => unknown,
 *   prepare: () => Promise<string>,
 *   link: (source: string, target: string) => unknown,
 *   progress: (line: string) => unknown,
 * }} HostOfRun
 * @typedef {HostOfRun & {
 *   context: AsyncResource,
 *   resolve: (result: string) => void,
 *   reject: (error: Error) => void,
 *   chunks: any[],
 *   delivering: boolean,
 *   line?: string,
 *   showing: boolean,
 *   over: boolean,
 * }} Run
 */

/** The runs under way, by number. @type {Map<number, Run>} */
const runs = new Map();
let lastRun = 0;

/** Holds the process open while runs are under way: the mailbox does not. */
const open = setInterval(() => {}, 2 ** 31 - 1).unref();

/** The native half reaches this environment through one function, whatever the number of runs. */
const mailbox = new binding.Mailbox(takeMessages);

/**
 * Runs a run of the native half; resolves to its result.
 *
 * @param {string} request
 * @param {import('./generated/binding.js').RunControl} control
 * @param {HostOfRun} host
 * @returns {Promise<unknown>}
 */
export async function execute(request, control, host) {
  lastRun = (lastRun + 1) % 2 ** 32;
  const number = lastRun;
  // The host's callbacks are called in the asynchronous context of its call.
  const context = new AsyncResource('claude_k8s');
  const { promise, resolve, reject } = withResolvers();
  /** @type {Run} */
  const run = {
    ...host,
    context,
    resolve,
    reject,
    chunks: [],
    delivering: false,
    showing: false,
    over: false,
  };
  runs.set(number, run);
  open.ref();
  try {
    binding.execute(request, control, mailbox, number);
    return JSON.parse(await promise);
  } finally {
    runs.delete(number);
    if (runs.size === 0) open.unref();
    // What a callback that never settled has held up does not reach the host any more, should it settle after all.
    run.over = true;
    run.chunks = [];
    context.emitDestroy();
  }
}

/** As `Promise.withResolvers`, which Node 20 lacks. */
function withResolvers() {
  /** @type {(value: string) => void} */
  let resolve = () => {};
  /** @type {(error: Error) => void} */
  let reject = () => {};
  /** @type {Promise<string>} */
  const promise = new Promise((...functions) => {
    [resolve, reject] = functions;
  });
  return { promise, resolve, reject };
}

/** The kinds of messages by their index. */
const KINDS = binding.Mailbox.kinds();
/** Messages taken at once: about a millisecond's work, then the event loop has its turn. */
const MOST = 128;
/** Whether more messages wait, then three numbers for each one. */
const headers = new Uint32Array(1 + 3 * MOST);

/** Takes the messages that wait, and sees to them. What is thrown here would end the host's process. */
function takeMessages() {
  /** @type {string[]} */
  let texts;
  try {
    texts = mailbox.take(headers);
  } catch {
    // Each of these messages has been failed.
    return;
  }
  const more = headers[0];
  for (let n = 0, at = 1; n < texts.length; n++, at += 3) {
    const message = /** @type {number} */ (headers[at]);
    try {
      takeMessage(
        message,
        runs.get(/** @type {number} */ (headers[at + 1])),
        KINDS[/** @type {number} */ (headers[at + 2])],
        /** @type {string} */ (texts[n]),
      );
    } catch (error) {
      refuse(message, error);
    }
    // The engine moves live objects when it collects: a chunk must not live longer than the host wants it.
    texts[n] = '';
  }
  if (more) setImmediate(takeMessages);
}

/**
 * @param {number} message
 * @param {Run | undefined} run undefined once it is over
 * @param {string | undefined} kind
 * @param {string} text
 */
function takeMessage(message, run, kind, text) {
  if (!run || kind === 'refused') return;
  if (kind === 'stdout' || kind === 'stderr') {
    run.chunks.push(message, kind, text);
    if (!run.delivering) run.context.runInAsyncScope(deliver, undefined, run);
  } else if (kind === 'progress') {
    run.line = text;
    if (!run.showing) run.context.runInAsyncScope(show, undefined, run);
    done(message);
  } else if (kind === 'result') {
    run.resolve(text);
    done(message);
  } else if (kind === 'failed') {
    run.reject(new Error(text));
    done(message);
  } else run.context.runInAsyncScope(answer, undefined, run, message, kind, text);
}

/** Answers a message with an error. @param {number} message @param {unknown} error */
function refuse(message, error) {
  mailbox.fail(message, errText(error));
}

/**
 * Calls the host's `onLog` with the run's chunks, one after the other, until there are no more.
 *
 * @param {Run} run
 */
async function deliver(run) {
  run.delivering = true;
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
        refuse(chunks[at], error);
      }
      if (run.over) return;
    }
  }
  run.delivering = false;
}

/**
 * Shows the run's line at the host, and then the last one that came meanwhile. The run never waits for it, whatever the
 * host does.
 *
 * @param {Run} run
 */
async function show(run) {
  run.showing = true;
  while (run.line !== undefined) {
    const { line } = run;
    run.line = undefined;
    try {
      await run.progress(line);
    } catch {
      // The same is in the run's log.
    }
  }
  run.showing = false;
}

/**
 * @param {Run} run
 * @param {number} message
 * @param {string | undefined} kind
 * @param {string} text
 */
async function answer(run, message, kind, text) {
  try {
    if (kind === 'prepare') {
      mailbox.answer(message, await run.prepare());
    } else if (kind === 'event') {
      mailbox.answer(message, (await run.event(JSON.parse(text))) ? 'taken' : undefined);
    } else {
      if (kind === 'meta') await run.meta(JSON.parse(text));
      else if (kind === 'link') await run.link(.../** @type {[string, string]} */ (JSON.parse(text)));
      else throw new Error(`a message of an unknown kind: ${kind}`);
      done(message);
    }
  } catch (error) {
    refuse(message, error);
  }
}

const answered = new Uint32Array(MOST);
let answers = 0;

/** Answers a message to which there is nothing to say; all answers of this turn go back at once. @param {number} message */
function done(message) {
  if (answers === 0) process.nextTick(flush);
  answered[answers] = message;
  answers += 1;
  if (answers === answered.length) flush();
}

function flush() {
  if (answers > 0) mailbox.done(answered, answers);
  answers = 0;
}
