import fc from 'fast-check';

const word = fc.constantFrom('', ' ', 'error', 'error_max_turns', 'text', 'ünï — ✓', 'init');
const junk = fc.oneof(word, fc.jsonValue());

const block = fc.record(
  {
    type: fc.oneof(fc.constantFrom('text', 'thinking', 'tool_use', 'tool_result', 'image'), junk),
    text: junk,
    thinking: junk,
    name: junk,
    id: junk,
    tool_use_id: junk,
    input: junk,
    content: fc.oneof(fc.array(fc.oneof(fc.record({ text: junk }), junk)), junk),
    is_error: fc.oneof(fc.boolean(), junk),
  },
  { requiredKeys: [] },
);

const event = fc.record(
  {
    type: fc.oneof(
      fc.constantFrom('system', 'assistant', 'user', 'result', 'rate_limit_event', 'stream_event'),
      junk,
    ),
    subtype: fc.oneof(fc.constantFrom('init', 'success', 'error_during_execution'), junk),
    message: fc.oneof(fc.record({ content: fc.array(fc.oneof(block, junk)) }), junk),
    model: junk,
    session_id: junk,
    result: junk,
    is_error: fc.oneof(fc.boolean(), junk),
    errors: fc.oneof(fc.array(fc.oneof(fc.record({ message: junk, error: junk, code: junk }), junk)), junk),
    usage: fc.oneof(
      fc.record({ input_tokens: junk, output_tokens: junk, cache_read_input_tokens: junk }),
      fc.constant({ input_tokens: { valueOf: 1, toString: 2 } }),
      junk,
    ),
    total_cost_usd: fc.oneof(fc.double(), junk),
    rate_limit_info: fc.oneof(
      fc.record({ rateLimitType: junk, status: junk, resetsAt: fc.oneof(fc.double(), junk) }),
      junk,
    ),
  },
  { requiredKeys: ['type'] },
);

/** Lines as a pod's log may hold them: free text, any JSON, and events that are right or nearly right. */
export const logLine = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.json(),
  event.map((value) => JSON.stringify(value)),
  event.map((value) => ` ${JSON.stringify(value)}\r`),
);
