import { homedir } from 'node:os';

import { binding } from './binding.js';
import { ensurePaperclipSkillSymlink } from './host-utils.js';
import { settled } from './errors.js';

/**
 * Lays out an agent's skills and instructions, once per content, in a folder that the Job's pod sees too.
 *
 * @param {{
 *   companyId: string,
 *   skills: ReadonlyArray<{key: string, runtimeName?: string | null, source?: string | null}>,
 *   instructionsContents: string | null,
 *   onLog: (stream: 'stdout' | 'stderr', chunk: string) => unknown,
 * }} order
 * @returns {Promise<{bundleKey: string, rootDir: string, addDir: string, instructionsFilePath: string | null}>}
 */
export async function prepareClaudePromptBundle({ companyId, skills, instructionsContents, onLog }) {
  const input = {
    companyId,
    skills,
    instructions: instructionsContents,
    paperclipHome: process.env.PAPERCLIP_HOME,
    instanceId: process.env.PAPERCLIP_INSTANCE_ID,
    userHome: homedir(),
  };
  const { bundle, warnings } = /** @type {any} */ (
    await binding.preparePromptBundle(
      JSON.stringify(input),
      settled((source, target) => ensurePaperclipSkillSymlink(source, target)),
    )
  );
  for (const warning of warnings) await onLog('stderr', `${warning}\n`);
  return bundle;
}
