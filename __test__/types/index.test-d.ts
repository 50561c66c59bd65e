// Compiled by `npm run typecheck`, never run. The package imports itself by name, so that the
// `types` entries of its exports map are tested too.
import type {
  AdapterExecutionResult,
  AdapterModel,
  ServerAdapterModule,
  StdoutLineParser,
} from '@paperclipai/adapter-utils';
import {
  agentConfigurationDoc,
  createServerAdapter,
  label,
  models,
  printClaudeStreamEvent,
  type,
} from 'paperclip-adapter-claude-k8s';
import type { ClaudeK8sAdapter, ConfigField } from 'paperclip-adapter-claude-k8s';
import { printClaudeStreamEvent as printFromCli } from 'paperclip-adapter-claude-k8s/cli';
import * as server from 'paperclip-adapter-claude-k8s/server';
import { parseStdoutLine } from 'paperclip-adapter-claude-k8s/ui-parser';

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function holds<_Claim extends true>(): void {}

// Root constants are as narrow as their values.
holds<Same<typeof type, 'claude_k8s'>>();
holds<Same<typeof label, 'Claude (Kubernetes)'>>();
holds<Same<typeof models, AdapterModel[]>>();
holds<Same<typeof agentConfigurationDoc, string>>();
// @ts-expect-error another adapter's type
const otherType: typeof type = 'claude_local';

// The adapter is what a host registers, and callable without asking whether a member is there.
const adapter = createServerAdapter();
const forHost: ServerAdapterModule = adapter;
const entries = adapter.listModels().then((list) => list.map((model) => model.id));
const schema = adapter.getConfigSchema();
const firstKey: string | undefined = schema.fields[0]?.key;
// @ts-expect-error it takes no arguments
createServerAdapter({});
// @ts-expect-error the schema comes synchronously
adapter.getConfigSchema().then;
// @ts-expect-error there is no such member
adapter.refresh;
// @ts-expect-error skills of an adapter that supports them are a snapshot and not a list
const skills: Promise<string[]> = adapter.listSkills({
  agentId: '',
  companyId: '',
  adapterType: '',
  config: {},
});

// A select field has options, no other field has.
const select: ConfigField = { type: 'select', key: 'k', label: 'l', hint: 'h', options: [] };
// @ts-expect-error a select field without options
const noOptions: ConfigField = { type: 'select', key: 'k', label: 'l', hint: 'h' };
// @ts-expect-error a number field with a textual default
const badDefault: ConfigField = { type: 'number', key: 'k', label: 'l', hint: 'h', default: '1' };

// The server entry has the adapter's own functions.
holds<Same<typeof server.execute, ClaudeK8sAdapter['execute']>>();
holds<Same<typeof server.testEnvironment, ClaudeK8sAdapter['testEnvironment']>>();
holds<Same<typeof server.createServerAdapter, typeof createServerAdapter>>();
holds<Same<ReturnType<typeof server.execute>, Promise<AdapterExecutionResult>>>();
// @ts-expect-error a run needs its context
server.execute();
// @ts-expect-error helpers are not exported
server.buildJobManifest;

// The codec yields known keys or null.
const stored = server.sessionCodec.deserialize({ session_id: 's' });
const sessionId: string | undefined = stored?.sessionId;
const serialized = server.sessionCodec.serialize(undefined);
const displayId: string | null = server.sessionCodec.getDisplayId(null);
// @ts-expect-error null has to be handled
stored.sessionId;
// @ts-expect-error not a stored key
stored?.session_id;

// Printing gives nothing back, and both entries print with the same function.
holds<Same<ReturnType<typeof printClaudeStreamEvent>, void>>();
holds<Same<typeof printFromCli, typeof printClaudeStreamEvent>>();
// @ts-expect-error debug is not optional
printClaudeStreamEvent('line');

// The UI parser is one of the host's line parsers.
const parser: StdoutLineParser = parseStdoutLine;
const [entry] = parseStdoutLine('line', 'ts');
if (entry?.kind === 'tool_result') holds<Same<typeof entry.isError, boolean>>();
// @ts-expect-error the time stamp is a string
parseStdoutLine('line', 0);

export {
  badDefault,
  displayId,
  entries,
  firstKey,
  forHost,
  noOptions,
  otherType,
  parser,
  select,
  serialized,
  sessionId,
  skills,
};

// @ts-expect-error everything else is refused by the exports map
import 'paperclip-adapter-claude-k8s/js/session.js';
