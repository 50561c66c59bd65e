// Commands that run to their end.
import { spawn } from 'node:child_process';

/**
 * Runs a command and resolves to its stdout. A failure rejects with what it printed.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {{cwd?: string, env?: Record<string, string | undefined>, input?: string}} [options] `env` adds to ours
 * @returns {Promise<string>}
 */
export async function output(command, args, { env, input = '', ...options } = {}) {
  const child = spawn(command, args, { ...options, env: { ...process.env, ...env }, stdio: 'pipe' });
  let stdout = '';
  let all = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    stdout += text;
    all += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    all += text;
  });
  child.stdin.on('error', () => {}).end(input);
  const [code, signal] = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (...end) => resolve(end));
  });
  if (code !== 0) {
    const line = [command, ...args].join(' ');
    throw new Error(
      `${line} failed (${signal ?? `exit ${code}`}):\n${all.trim().split('\n').slice(-40).join('\n')}`,
    );
  }
  return stdout;
}
