// The lines that scripted pods print, and the check that each reaches the host once and unchanged.

/** Bytes of a line with its newline: a common size of the CLI's tool results. */
const BYTES = 1_200;
/** Fills JSON strings like tool output, with its escapes. */
const FILL = String.raw`    let total = items.iter().map(|item| item.price).sum::<u64>();\n    println!(\"{total}\");\n`;
const END = `"session_id":"5f0c8a52-5b7e-4a41-9d53-0c5b0a6d1f11","uuid":"{n8}-{us}"}`;

const assistant = (content) =>
  `{"type":"assistant","message":{"id":"msg_{n8}","type":"message","role":"assistant","model":"claude-opus-4-8",` +
  `"content":[${content}],"stop_reason":null,"usage":{"input_tokens":12,"cache_read_input_tokens":9000,` +
  `"output_tokens":34}},"parent_tool_use_id":null,${END}`;
const user = (text) =>
  `{"type":"user","message":{"role":"user","content":[{"tool_use_id":"toolu_{n8}","type":"tool_result",` +
  `"content":"${text}{pad}"}]},"parent_tool_use_id":null,${END}`;

/** The kinds of lines alternate, as in a transcript; one in eight is not ASCII. No two lines share an id. */
const TEXTS = [
  assistant(`{"type":"text","text":"Step {n8}: {pad}"}`),
  assistant(`{"type":"tool_use","id":"toolu_{n8}","name":"Bash","input":{"command":"{pad}"}}`),
  user('total 48\\n'),
  user('naïve café ✓ — 1 passed\\n'),
  assistant(`{"type":"tool_use","id":"toolu_{n8}","name":"Edit","input":{"new_string":"{pad}"}}`),
  user(''),
  assistant(`{"type":"tool_use","id":"toolu_{n8}","name":"Read","input":{"file_path":"{pad}"}}`),
  user('     1→'.replace('→', '\\t')),
];
const LAST =
  `{"type":"result","subtype":"success","is_error":false,"duration_ms":1000,"num_turns":4,"result":"Done.",` +
  `"total_cost_usd":0.01,"usage":{"input_tokens":12,"cache_read_input_tokens":9000,"output_tokens":34},${END}`;

/** The script of a pod that prints `lines` lines and a result. */
export function scriptOf({ lines, perSecond, startDelayMs }) {
  return JSON.stringify({
    lines,
    perSecond,
    startDelayMs,
    bytes: BYTES,
    fill: FILL,
    text: TEXTS,
    last: LAST,
  });
}

/** A line as JavaScript has it: the offsets of its number and time, and the texts between them. */
function expected(text, bytes) {
  const fields = [];
  let left = bytes === undefined ? 0 : bytes - 1 - Buffer.byteLength(widened(text).replace('{pad}', ''));
  let pad = '';
  for (; left >= FILL.length; left -= FILL.length) pad += FILL;
  const whole = widened(text).replace('{pad}', () => pad + 'x'.repeat(left));
  const literals = [];
  let from = 0;
  // oxlint-disable-next-line no-control-regex -- the placeholders are control characters, which no text holds
  for (const { index, 0: field } of whole.matchAll(/\0{8}|\u0001{16}/g)) {
    literals.push({ from, to: index, text: whole.slice(from, index) });
    if (field.length === 8) fields.push(index);
    from = index + field.length;
  }
  literals.push({ from, to: whole.length, text: whole.slice(from) });
  return { length: whole.length, literals, fields };
}

/** The text with placeholders as wide as what replaces them. */
function widened(text) {
  return text.replaceAll('{n8}', '\0'.repeat(8)).replaceAll('{us}', '\u0001'.repeat(16));
}

const EXPECTED = TEXTS.map((text) => expected(text, BYTES));
const EXPECTED_LAST = expected(LAST);
/** Offsets of a line's time and number from its end. */
const TIME_AT = 16 + '"}'.length;
const NUMBER_AT = TIME_AT + 1 + 8;

function digits(text, at, count) {
  let value = 0;
  for (let i = at; i < at + count; i++) {
    const digit = text.charCodeAt(i) - 48;
    if (!(digit >= 0 && digit <= 9)) return -1;
    value = value * 10 + digit;
  }
  return value;
}

/** Checks the output of one run as the host receives it. */
export class Receiver {
  /**
   * @param {number} lines the number of lines that the pod prints, without the result
   * @param {(us: number) => void} late called for each line with its age in microseconds
   */
  constructor(lines, late) {
    this.lines = lines;
    this.late = late;
    this.seen = new Uint8Array(lines + 1);
    this.rest = '';
    this.counts = { delivered: 0, doubled: 0, damaged: 0 };
  }

  /** Takes a chunk of the agent's output, or of the adapter's own lines; `now` in microseconds since the epoch. */
  take(chunk, now) {
    // Only a chunk that ends inside a line is copied.
    const text = this.rest ? this.rest + chunk : chunk;
    let at = 0;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', at)) {
      if (text.charCodeAt(at) !== 91 /* [paperclip] */) this.line(text, at, end, now);
      at = end + 1;
    }
    this.rest = at < text.length ? text.slice(at) : '';
  }

  line(text, at, end, now) {
    const n = digits(text, end - NUMBER_AT, 8);
    const us = digits(text, end - TIME_AT, 16);
    const known = n >= 0 && n <= this.lines;
    const { length, literals, fields } =
      n === this.lines ? EXPECTED_LAST : EXPECTED[Math.max(n, 0) % EXPECTED.length];
    const sound =
      known &&
      us > 0 &&
      end - at === length &&
      literals.every((part) => text.slice(at + part.from, at + part.to) === part.text) &&
      fields.every((field) => digits(text, at + field, 8) === n);
    if (!sound) this.counts.damaged += 1;
    if (!known) return;
    if (this.seen[n]) {
      this.counts.doubled += 1;
      return;
    }
    this.seen[n] = 1;
    this.counts.delivered += 1;
    if (us > 0) this.late(now - us);
  }

  /** The counts after the end of the run; an unfinished line is damaged. */
  finish() {
    if (this.rest && !this.rest.startsWith('[')) this.counts.damaged += 1;
    return { ...this.counts, lost: this.lines + 1 - this.counts.delivered };
  }
}
