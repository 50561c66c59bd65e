import { existsSync, mkdirSync } from 'node:fs';
import path from 'node:path';

import { prepare as prepareForReal } from '../../../js/prepare.js';

/**
 * As `js/prepare.js`, but a skill whose folder does not exist gets an empty one: 0.1.49's tests name such skills, because
 * they mock the module that would read them.
 */
export async function prepare(ctx) {
  const prepared = await prepareForReal(ctx);
  const empty = path.join(process.env.EXISTING_BRIDGE_DIR ?? '', 'empty-skill');
  mkdirSync(empty, { recursive: true });
  const skills = prepared.skills.map((skill) =>
    existsSync(skill.source) ? skill : { ...skill, source: empty },
  );
  return { ...prepared, skills };
}
