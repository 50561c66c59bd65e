import { getConfigSchema } from './config-schema.js';
import { agentConfigurationDoc } from './doc.js';
import { testEnvironment } from './environment.js';
import { execute } from './execute.js';
import { models, type } from './identity.js';
import { listK8sModels, refreshK8sModels } from './models.js';
import { sessionCodec } from './session.js';
import { listK8sSkills, syncK8sSkills } from './skills.js';

/**
 * Claude Code resumes and compacts its own sessions, so the host never rotates one: every limit is 0.
 *
 * @type {import('../index.js').ClaudeK8sAdapter['sessionManagement']}
 */
const sessionManagement = {
  supportsSessionResume: true,
  nativeContextManagement: 'confirmed',
  defaultSessionCompaction: {
    enabled: true,
    maxSessionRuns: 0,
    maxRawInputTokens: 0,
    maxSessionAgeHours: 0,
  },
};

/**
 * What the host registers. Each call returns a new object with the same members in the same order.
 *
 * @returns {import('../index.js').ClaudeK8sAdapter}
 */
export function createServerAdapter() {
  return {
    type,
    execute,
    testEnvironment,
    sessionCodec,
    sessionManagement,
    models,
    listModels: listK8sModels,
    refreshModels: refreshK8sModels,
    listSkills: listK8sSkills,
    syncSkills: syncK8sSkills,
    runtimeToolDelivery: 'native_mcp',
    supportsLocalAgentJwt: true,
    supportsInstructionsBundle: true,
    instructionsPathKey: 'instructionsFilePath',
    requiresMaterializedRuntimeSkills: false,
    // Only older hosts read this: with it they judge a run by its staleness, not by a local process id.
    hasOutOfProcessLiveness: true,
    agentConfigurationDoc,
    getConfigSchema,
  };
}
