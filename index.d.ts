import type {
  AdapterEnvironmentTestContext,
  AdapterEnvironmentTestResult,
  AdapterExecutionContext,
  AdapterExecutionResult,
  AdapterModel,
  AdapterSessionCodec,
  AdapterSkillContext,
  AdapterSkillEntry,
  AdapterSkillSnapshot,
  ServerAdapterModule,
} from '@paperclipai/adapter-utils';

/** The adapter type under which the host registers this package. */
export declare const type: 'claude_k8s';

/** The name that the host's UI shows. */
export declare const label: 'Claude (Kubernetes)';

/** The models that are known without asking the host or the API. The adapter's `listModels()` asks. */
export declare const models: AdapterModel[];

/** Documentation of every configuration key, as Markdown. */
export declare const agentConfigurationDoc: string;

/** Creates the object that the host registers: a new one on each call, with the same members. */
export declare function createServerAdapter(): ClaudeK8sAdapter;

/**
 * Prints one line of Claude's stream-json output in readable form, through `console.log`. Events of an unknown type are
 * printed only when `debug` is true.
 */
export declare function printClaudeStreamEvent(raw: string, debug: boolean): void;

/** The adapter. All its members are present, also those that are optional in the host's own type. */
export interface ClaudeK8sAdapter extends ServerAdapterModule {
  type: 'claude_k8s';
  execute(ctx: AdapterExecutionContext): Promise<AdapterExecutionResult>;
  testEnvironment(ctx: AdapterEnvironmentTestContext): Promise<AdapterEnvironmentTestResult>;
  sessionCodec: ClaudeK8sSessionCodec;
  sessionManagement: {
    supportsSessionResume: true;
    nativeContextManagement: 'confirmed';
    defaultSessionCompaction: {
      enabled: true;
      maxSessionRuns: 0;
      maxRawInputTokens: 0;
      maxSessionAgeHours: 0;
    };
  };
  models: AdapterModel[];
  listModels: () => Promise<AdapterModel[]>;
  refreshModels: () => Promise<AdapterModel[]>;
  listSkills: (ctx: AdapterSkillContext) => Promise<ClaudeK8sSkillSnapshot>;
  syncSkills: (ctx: AdapterSkillContext, desiredSkills: string[]) => Promise<ClaudeK8sSkillSnapshot>;
  /** The host's tools come as MCP servers. */
  runtimeToolDelivery: 'native_mcp';
  supportsLocalAgentJwt: true;
  supportsInstructionsBundle: true;
  instructionsPathKey: 'instructionsFilePath';
  requiresMaterializedRuntimeSkills: false;
  /** Only older hosts read it: they then judge a run by its staleness and not by a local process id. */
  hasOutOfProcessLiveness: true;
  agentConfigurationDoc: string;
  getConfigSchema: () => ConfigSchema;
}

/** A condition of the Job or its pod. */
export interface ClaudeK8sCondition {
  object: 'Job' | 'Pod';
  type: string;
  status: string;
  reason?: string;
  message?: string;
  /** When it last changed. */
  at?: string;
}

/** A container of the pod, as it was last seen. */
export interface ClaudeK8sContainer {
  name: string;
  init?: true;
  state: 'waiting' | 'running' | 'terminated';
  reason?: string;
  message?: string;
  exitCode?: number;
  restarts?: number;
}

/** An Event about the Job or its pod. */
export interface ClaudeK8sEvent {
  object: string;
  reason?: string;
  message?: string;
  count: number;
  at?: string;
}

/** `resultJson.k8s` of a failed run: its cause and what the run saw. Times are ISO; what was not seen is absent. */
export interface ClaudeK8sEvidence {
  /** A code of docs/troubleshooting.md. */
  cause: string;
  stage:
    | 'configuration'
    | 'guard'
    | 'create'
    | 'pod'
    | 'schedule'
    | 'start'
    | 'ended'
    | 'exit'
    | 'output'
    | 'api'
    | 'internal';
  /** What happened, to which object and when. */
  summary: string;
  /** What to do next. */
  hint: string;
  /** The cluster's own words. */
  message?: string;
  namespace?: string;
  job?: string;
  pod?: string;
  node?: string;
  timeline: {
    created?: string;
    scheduled?: string;
    pulled?: string;
    started?: string;
    firstLine?: string;
    lastLine?: string;
    askedToEnd?: { at: string; by: string };
    ended?: string;
    noticed: string;
  };
  conditions?: ClaudeK8sCondition[];
  containers?: ClaudeK8sContainer[];
  events?: ClaudeK8sEvent[];
  log?: { bytes: number; lines: number; gaps: number; reconnects: number };
  /** Why the container did not start. */
  start?: {
    step: string;
    container: string | null;
    reason: string | null;
    words: string | null;
    waitedSec: number;
    heldSec: number;
  };
}

/** What the host stores for a task so that its next run resumes the session. */
export type ClaudeK8sSessionParams = {
  sessionId: string;
  cwd?: string;
  workspaceId?: string;
  repoUrl?: string;
  repoRef?: string;
  promptBundleKey?: string;
  /** Which MCP servers the session had; absent without any. */
  mcpServerIdentity?: string;
  /** Where the session lies: the namespace of the Job and the volume claim at its home. */
  namespace?: string;
  volumeClaim?: string;
  /** The CLI's folder of settings, where it is not that of the home. */
  claudeHome?: string;
};

/** Converts stored session data. Data without a session id becomes null. */
export interface ClaudeK8sSessionCodec extends AdapterSessionCodec {
  deserialize(raw: unknown): ClaudeK8sSessionParams | null;
  serialize(params: Record<string, unknown> | null | undefined): ClaudeK8sSessionParams | null;
  getDisplayId(params: Record<string, unknown> | null | undefined): string | null;
}

/** One skill. `required` and `requiredReason` are set for available skills only. */
export interface ClaudeK8sSkillEntry extends AdapterSkillEntry {
  required?: boolean;
  requiredReason?: string | null;
}

/** The skills an agent has, wants and could have. */
export interface ClaudeK8sSkillSnapshot extends AdapterSkillSnapshot {
  adapterType: 'claude_k8s';
  supported: true;
  mode: 'ephemeral';
  entries: ClaudeK8sSkillEntry[];
}

interface ConfigFieldBase {
  key: string;
  label: string;
  hint: string;
  /** Shown only while the field `key` has this value. */
  meta?: { visibleWhen: { key: string; value: string } };
}

/** One field of the host's form for an agent of this type. */
export type ConfigField =
  | (ConfigFieldBase & { type: 'text' | 'textarea'; default?: string })
  | (ConfigFieldBase & { type: 'number'; default?: number })
  | (ConfigFieldBase & { type: 'toggle'; default?: boolean })
  | (ConfigFieldBase & {
      type: 'select';
      default?: string;
      options: Array<{ label: string; value: string }>;
    });

/** The adapter's own part of the host's form, in form order. */
export interface ConfigSchema {
  fields: ConfigField[];
}

export {};
