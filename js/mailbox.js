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
 */

/** A run under way. All runs have one shape, which the engine knows: objects made by spreading get one each. */
class Run {
  // The host's callbacks are called in the asynchronous context of its call.
  context = new AsyncResource('claude_k8s');
  /** What waits for the host to take what it has: numbers of messages, streams and texts, in turns. @type {any[]} */
  chunks = [];
  delivering = false;
  /** The last line of progress, until it is shown. @type {string | undefined} */
  line = undefined;
  showing = false;
  /** What a callback that never settled has held up does not reach the host any more, should it settle after all. */
  over = false;
  /** @type {(result: string) => void} */
  resolve = () => {};
  /** @type {(error: Error) => void} */
  reject = () => {};
  /** @type {Promise<string>} */
  ended = new Promise((resolve, reject) => {
    this.resolve = resolve;
    this.reject = reject;
  });

  /** @param {HostOfRun} host */
  constructor(host) {
    this.log = host.log;
    this.meta = host.meta;
    this.event = host.event;
    this.prepare = host.prepare;
    this.link = host.link;
    this.progress = host.progress;
  }
}

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
  const run = new Run(host);
  runs.set(number, run);
  open.ref();
  try {
    binding.execute(request, control, mailbox, number);
    return JSON.parse(await run.ended);
  } finally {
    runs.delete(number);
    if (runs.size === 0) open.unref();
    run.over = true;
    run.chunks = [];
    run.context.emitDestroy();
  }
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
    if (run.delivering) run.chunks.push(message, kind, text);
    else run.context.runInAsyncScope(deliver, undefined, run, message, kind, text);
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

/** @type {any[]} */
const NONE = [];

/**
 * Calls the host's `onLog` with a chunk of the run, and with those that come meanwhile, one after the other.
 *
 * @param {Run} run
 * @param {number} message
 * @param {'stdout' | 'stderr'} stream
 * @param {string} text
 */
async function deliver(run, message, stream, text) {
  run.delivering = true;
  for (let chunks = NONE, at = 0; ; at += 3) {
    try {
      await run.log(stream, text);
      done(message);
    } catch (error) {
      refuse(message, error);
    }
    if (run.over) return;
    if (at === chunks.length) {
      if (run.chunks.length === 0) break;
      chunks = run.chunks;
      run.chunks = [];
      at = 0;
    }
    [message, stream, text] = [chunks[at], chunks[at + 1], chunks[at + 2]];
    chunks[at + 2] = undefined;
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
