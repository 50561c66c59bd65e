// The mailbox's JavaScript half before a native half that cannot give a message.
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

const KINDS = [
  'stdout',
  'stderr',
  'meta',
  'prepare',
  'link',
  'progress',
  'event',
  'result',
  'failed',
  'refused',
];

/** Batches that the native half gives next: an error, or messages of run 1. @type {(Error | [string, string][])[]} */
let batches = [];
/** What was answered, by number of the message. @type {Record<number, unknown>} */
let answers = {};
/** Wakes JavaScript. @type {() => void} */
let wake = () => {};

class Mailbox {
  /** @param {() => void} woken */
  constructor(woken) {
    wake = woken;
  }

  static kinds() {
    return KINDS;
  }

  /** @param {Uint32Array} headers */
  take(headers) {
    const batch = batches.shift() ?? [];
    if (batch instanceof Error) throw batch;
    headers[0] = 0;
    for (const [at, [kind]] of batch.entries()) headers.set([at + 1, 1, KINDS.indexOf(kind)], 1 + 3 * at);
    return batch.map(([, text]) => text);
  }

  /** @param {number} number @param {string} error */
  fail(number, error) {
    answers[number] = error;
  }

  /** @param {number} number @param {unknown} text */
  answer(number, text) {
    answers[number] = text ?? 'done';
  }

  /** @param {Uint32Array} numbers @param {number} count */
  done(numbers, count) {
    for (const number of numbers.slice(0, count)) answers[number] = 'done';
  }
}

/** @type {typeof import('../../js/mailbox.js')} */
let mailbox;
beforeEach(async () => {
  [batches, answers] = [[], {}];
  vi.resetModules();
  vi.doMock('../../js/binding.js', () => ({ binding: { Mailbox, execute: () => {} } }));
  mailbox = await import('../../js/mailbox.js');
});
afterEach(() => {
  vi.doUnmock('../../js/binding.js');
  vi.resetModules();
});

/** A host that keeps what it gets in `got`. */
function hostWith(/** @type {string[]} */ got) {
  return {
    log: (/** @type {string} */ stream, /** @type {string} */ text) => got.push(`${stream} ${text}`),
    meta: (/** @type {unknown} */ meta) => got.push(`meta ${JSON.stringify(meta)}`),
    event: () => true,
    prepare: async () => '{}',
    link: () => {},
    progress: (/** @type {string} */ line) => got.push(`progress ${line}`),
  };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));
const execute = (/** @type {string[]} */ got = []) =>
  mailbox.execute('{}', /** @type {any} */ ({}), hostWith(got));

/** A run that is given these batches, one wake each; resolves to what the host got. @param {(Error | [string, string][])[]} given */
async function run(given) {
  /** @type {string[]} */
  const got = [];
  const running = execute(got);
  batches = given;
  for (let n = given.length; n > 0; n -= 1) {
    wake();
    await turn();
  }
  const { ...before } = answers;
  batches = [[['result', '{"exitCode":0}']]];
  wake();
  expect(await running).toEqual({ exitCode: 0 });
  answers = before;
  return got;
}

it('run_ends_with_its_result_and_answers_it', async () => {
  const running = execute();
  batches = [[['result', '{"exitCode":0}']]];
  wake();
  expect(await running).toEqual({ exitCode: 0 });
  // The answers of a turn go back at its end.
  await turn();
  expect(answers).toEqual({ 1: 'done' });
});

it('run_that_failed_rejects_with_its_text_alone', async () => {
  const running = execute();
  batches = [[['failed', 'a task panicked']]];
  wake();
  await expect(running).rejects.toEqual(new Error('a task panicked'));
  await turn();
  expect(answers).toEqual({ 1: 'done' });
});

it('run_under_way_holds_the_process_open', async () => {
  const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;
  const before = timers();
  const running = execute();
  expect(timers()).toBe(before + 1);
  batches = [[['result', '{}']]];
  wake();
  await running;
  expect(timers()).toBe(before);
});

it('batch_that_cannot_be_taken_is_followed_by_the_next', async () => {
  const got = await run([new Error('Invalid string length'), [['stdout', 'later\n']]]);
  expect(got).toEqual(['stdout later\n']);
  expect(answers).toEqual({ 1: 'done' });
});

it('refused_text_is_not_given_to_the_host', async () => {
  const got = await run([
    [
      ['stdout', 'one\n'],
      ['refused', ''],
      ['meta', '{"a":1}'],
    ],
  ]);
  expect(got.toSorted()).toEqual(['meta {"a":1}', 'stdout one\n']);
  // Its sender has its answer from the native half.
  expect(answers).toEqual({ 1: 'done', 3: 'done' });
});

it('message_that_is_not_json_fails_alone', async () => {
  const got = await run([
    [
      ['meta', '{'],
      ['link', 'null'],
      ['prepare', ''],
      ['progress', 'line'],
    ],
  ]);
  expect(got).toEqual(['progress line']);
  expect(answers).toEqual({
    1: expect.stringMatching(/JSON/),
    2: expect.stringMatching(/iterable|spread/i),
    3: '{}',
    4: 'done',
  });
});
