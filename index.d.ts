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

/** The name people see in the host's UI. */
export declare const label: 'Claude (Kubernetes)';

/** There is no fixed model list; the adapter's `listModels()` answers instead. */
export declare const models: undefined;

/** Markdown about every configuration key. */
export declare const agentConfigurationDoc: string;

/** What the host registers: a new object on each call, with the same members. */
export declare function createServerAdapter(): ClaudeK8sAdapter;

/**
 * Prints one line of Claude's stream-json output for a person, through `console.log`.
 * Events it does not know are printed only when `debug` is true.
 */
export declare function printClaudeStreamEvent(raw: string, debug: boolean): void;

/** The adapter, with every member that is optional in the host's own type known to be there. */
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
  models: undefined;
  listModels: () => Promise<AdapterModel[]>;
  listSkills: (ctx: AdapterSkillContext) => Promise<ClaudeK8sSkillSnapshot>;
  syncSkills: (ctx: AdapterSkillContext, desiredSkills: string[]) => Promise<ClaudeK8sSkillSnapshot>;
  supportsLocalAgentJwt: true;
  supportsInstructionsBundle: true;
  instructionsPathKey: 'instructionsFilePath';
  requiresMaterializedRuntimeSkills: false;
  /** Read by older hosts only: a run is judged by its staleness and not by a local process id. */
  hasOutOfProcessLiveness: true;
  agentConfigurationDoc: string;
  getConfigSchema: () => ConfigSchema;
}

/** What is stored for a task so that its next run resumes the session. */
export type ClaudeK8sSessionParams = {
  sessionId: string;
  cwd?: string;
  workspaceId?: string;
  repoUrl?: string;
  repoRef?: string;
  promptBundleKey?: string;
};

/** Reads and writes stored session data; anything without a session id becomes null. */
export interface ClaudeK8sSessionCodec extends AdapterSessionCodec {
  deserialize(raw: unknown): ClaudeK8sSessionParams | null;
  serialize(params: Record<string, unknown> | null | undefined): ClaudeK8sSessionParams | null;
  getDisplayId(params: Record<string, unknown> | null | undefined): string | null;
}

/** One skill; `required` and `requiredReason` are set for available skills. */
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
}

/** One field of the form that the host shows for an agent of this type. */
export type ConfigField =
  | (ConfigFieldBase & { type: 'text' | 'textarea'; default?: string })
  | (ConfigFieldBase & { type: 'number'; default?: number })
  | (ConfigFieldBase & { type: 'toggle'; default?: boolean })
  | (ConfigFieldBase & {
      type: 'select';
      default?: string;
      options: Array<{ label: string; value: string }>;
    });

export interface ConfigSchema {
  fields: ConfigField[];
}

export {};
