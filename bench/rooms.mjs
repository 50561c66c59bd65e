// Row (f): the cargo bench of the pure rooms.
import { spawn } from 'node:child_process';

import { Problem, root } from '../scripts/lib.mjs';

/** Runs it; resolves to its table as text. */
export async function measureRooms({ quick }) {
  const args = ['bench', '--quiet', '--locked', '--no-default-features', '--bench', 'rooms', '--'];
  args.push(...(quick ? ['--sample-count', '5', '--max-time', '0.2'] : ['--min-time', '2']));
  const child = spawn('cargo', args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (part) => (text += part));
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new Problem(`failed (exit ${code}): cargo ${args.join(' ')}`);
  return { text: text.trimEnd() };
}
