import { createHash } from 'node:crypto';

import {
  asString,
  buildPaperclipEnv,
  desiredSkillNames,
  isSkillSourceMissing,
  optionalHostHelper,
  parseObject,
  readPaperclipRuntimeSkillEntries,
  renderTemplate,
} from './host-utils.js';
import { moduleDir } from './module-dir.js';

const DEFAULT_PROMPT_TEMPLATE = 'You are agent {{agent.id}} ({{agent.name}}). Continue your Paperclip work.';

/**
 * @typedef {import('@paperclipai/adapter-utils').AdapterExecutionContext} ExecutionContext
 * @typedef {import('@paperclipai/adapter-utils/server-utils').PaperclipSkillEntry} SkillEntry
 * @typedef {{fresh: string, resumed: string}} BySession a text for a new session and one for a resumed session: which it
 *   is the native half decides later
 */

/**
 * What the host's own helpers give for a Job: skills, prompts and the base environment. The native half decides what is
 * used.
 *
 * @param {ExecutionContext} ctx
 */
export async function prepare(ctx) {
  const config = parseObject(ctx.config);
  const entries = await readPaperclipRuntimeSkillEntries(config, moduleDir);
  const desired = new Set(desiredSkillNames(config, entries));
  const wanted = entries.filter((entry) => desired.has(entry.key));
  return {
    ...renderPrompts(ctx),
    skills: wanted
      .filter((entry) => !isSkillSourceMissing(entry))
      .map((entry) => ({
        key: entry.key,
        runtimeName: entry.runtimeName ?? entry.key,
        source: entry.source ?? '',
      })),
    warnings: [...templateWarnings(config), ...wanted.filter(isSkillSourceMissing).map(missingWarning)],
    skillLibrary: await skillLibrary(entries, desired),
    mcpServerIdentity: mcpServerIdentity(ctx),
  };
}

/**
 * A value that differs where the run's MCP servers do; empty without any. A hash, because it is stored with the session.
 *
 * @param {ExecutionContext} ctx
 * @returns {string}
 */
function mcpServerIdentity(ctx) {
  const { runtimeMcp } = /** @type {{runtimeMcp?: {getServers?: () => unknown}}} */ (ctx);
  const servers = runtimeMcp?.getServers?.();
  const named = Array.isArray(servers)
    ? servers.map((server) => [server?.name, server?.url, server?.connectionId])
    : [];
  named.push(...ownMcpServers(parseObject(ctx.config).mcpServers));
  if (named.length === 0) return '';
  return createHash('sha256').update(JSON.stringify(named)).digest('hex');
}

/**
 * What distinguishes the agent's own MCP servers: all but their headers and variables, whose tokens may be renewed.
 *
 * @param {unknown} configured `mcpServers`; the native half refuses what is not an object
 * @returns {unknown[][]}
 */
function ownMcpServers(configured) {
  let servers = configured;
  if (typeof servers === 'string') {
    try {
      servers = JSON.parse(servers);
    } catch {
      return [];
    }
  }
  const within = parseObject(servers);
  const isWrapped = Object.keys(within).length === 1 && 'mcpServers' in within;
  return Object.entries(parseObject(isWrapped ? within.mcpServers : within)).map(([name, server]) => {
    const { url, command, args } = parseObject(server);
    return [name, url ?? command, args];
  });
}

/**
 * What to say about templates that are not text: the host's helper takes the default for them.
 *
 * @param {Record<string, unknown>} config
 * @returns {string[]}
 */
function templateWarnings(config) {
  const isIgnored = (/** @type {string} */ key) => config[key] != null && typeof config[key] !== 'string';
  return ['promptTemplate', 'bootstrapPromptTemplate']
    .filter(isIgnored)
    .map((key) => `[paperclip] Warning: config.${key} ignored: it is not a string`);
}

/**
 * @param {SkillEntry} entry
 * @returns {string}
 */
function missingWarning(entry) {
  const { key, missingDetail } = /** @type {{key: string, missingDetail?: string | null}} */ (entry);
  const why = missingDetail?.trim();
  return `[paperclip] Warning: the files of skill "${key}" are missing, the agent runs without it${why ? `: ${why}` : ''}`;
}

/**
 * What the company's skill library holds, for the agent's instructions; empty where the host does not say so.
 *
 * @param {SkillEntry[]} entries
 * @param {Set<string>} desiredSkillKeys
 * @returns {Promise<string>}
 */
async function skillLibrary(entries, desiredSkillKeys) {
  const module = await import('@paperclipai/adapter-utils/skill-library-manifest').catch(() => null);
  return module?.buildSkillLibraryManifestMarkdown({ entries, desiredSkillKeys }) ?? '';
}

/**
 * The synchronous part of {@link prepare}: rendered templates, what the host says of the wake and the task, and the base
 * environment.
 *
 * @param {Pick<ExecutionContext, 'runId' | 'agent' | 'config' | 'context'>} ctx
 */
export function renderPrompts(ctx) {
  const config = parseObject(ctx.config);
  const context = parseObject(ctx.context);
  const data = {
    agentId: ctx.agent.id,
    companyId: ctx.agent.companyId,
    runId: ctx.runId,
    company: { id: ctx.agent.companyId },
    agent: ctx.agent,
    run: { id: ctx.runId, source: 'on_demand' },
    context: ctx.context,
  };
  return {
    baseEnv: buildPaperclipEnv(ctx.agent),
    bootstrapPrompt: renderTemplate(asString(config.bootstrapPromptTemplate, ''), data),
    heartbeatPrompt: isRecovery(context)
      ? ''
      : renderTemplate(asString(config.promptTemplate, defaultTemplate(context)), data),
    ...hostSections(context),
  };
}

/**
 * @param {Record<string, unknown>} context
 * @returns {string} the host's own template, where it has one
 */
function defaultTemplate(context) {
  const ofHost =
    context.conversationMode === true
      ? optionalHostHelper('DEFAULT_PAPERCLIP_CONVERSATION_PROMPT_TEMPLATE')
      : optionalHostHelper('DEFAULT_PAPERCLIP_AGENT_PROMPT_TEMPLATE');
  return ofHost ?? DEFAULT_PROMPT_TEMPLATE;
}

/** @param {Record<string, unknown>} context */
function isRecovery(context) {
  return optionalHostHelper('isPaperclipRecoveryWakePayload')?.(context.paperclipWake) ?? false;
}

/**
 * The sections and variables that a host renders itself; null where it cannot, then the native half does.
 *
 * @param {Record<string, unknown>} context
 */
function hostSections(context) {
  const selectTask = optionalHostHelper('selectPaperclipTaskMarkdown');
  const renderWake = optionalHostHelper('renderPaperclipWakePrompt');
  const stringifyWake = optionalHostHelper('stringifyPaperclipWakePayload');
  const task = selectTask && bySession((resumedSession) => selectTask(context, { resumedSession }));
  const wake =
    renderWake &&
    bySession((resumedSession) =>
      renderWake(context.paperclipWake, {
        resumedSession,
        conversationMode: context.conversationMode === true,
        // The task's own text says it.
        suppressIssueDescription: Boolean(task?.[resumedSession ? 'resumed' : 'fresh']),
      }),
    );
  return {
    taskPrompt: task ?? null,
    wakePrompt: wake ?? null,
    wakePayload: stringifyWake ? { json: stringifyWake(context.paperclipWake) } : null,
    issueWorkMode: optionalHostHelper('readPaperclipIssueWorkModeFromContext')?.(context) ?? null,
  };
}

/**
 * @param {(resumedSession: boolean) => string} render
 * @returns {BySession}
 */
function bySession(render) {
  return { fresh: render(false), resumed: render(true) };
}
