import {
  asString,
  buildPaperclipEnv,
  isSkillSourceMissing,
  parseObject,
  readPaperclipRuntimeSkillEntries,
  renderTemplate,
  resolvePaperclipDesiredSkillNames,
} from './host-utils.js';
import { moduleDir } from './module-dir.js';

const DEFAULT_PROMPT_TEMPLATE = 'You are agent {{agent.id}} ({{agent.name}}). Continue your Paperclip work.';

/** @typedef {import('@paperclipai/adapter-utils').AdapterExecutionContext} ExecutionContext */

/**
 * What the host's own helpers give for a Job: skills, prompts and the base environment. The native half decides what is
 * used.
 *
 * @param {ExecutionContext} ctx
 */
export async function prepare(ctx) {
  const config = parseObject(ctx.config);
  const entries = await readPaperclipRuntimeSkillEntries(config, moduleDir);
  const desired = new Set(resolvePaperclipDesiredSkillNames(config, entries));
  const skills = entries
    .filter((entry) => desired.has(entry.key) && !isSkillSourceMissing(entry))
    .map((entry) => ({
      key: entry.key,
      runtimeName: entry.runtimeName ?? entry.key,
      source: entry.source ?? '',
    }));
  return { ...renderPrompts(ctx), skills };
}

/**
 * The synchronous part of {@link prepare}: rendered templates and the base environment.
 *
 * @param {Pick<ExecutionContext, 'runId' | 'agent' | 'config' | 'context'>} ctx
 */
export function renderPrompts(ctx) {
  const config = parseObject(ctx.config);
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
    heartbeatPrompt: renderTemplate(asString(config.promptTemplate, DEFAULT_PROMPT_TEMPLATE), data),
  };
}
