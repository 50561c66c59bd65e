import { homedir } from 'node:os';

import { ensurePaperclipSkillSymlink } from '../../../js/host-utils.js';
import { binding } from '../compat.js';
import { settled } from '../settled.js';

export async function prepareClaudePromptBundle({ companyId, skills, instructionsContents, onLog }) {
  const order = {
    companyId,
    skills,
    instructions: instructionsContents,
    paperclipHome: process.env.PAPERCLIP_HOME,
    instanceId: process.env.PAPERCLIP_INSTANCE_ID,
    userHome: homedir(),
  };
  const link = settled((source, target) => ensurePaperclipSkillSymlink(source, target));
  const { bundle, warnings } = await binding.preparePromptBundle(JSON.stringify(order), link);
  for (const warning of warnings) await onLog('stderr', `${warning}\n`);
  return bundle;
}
