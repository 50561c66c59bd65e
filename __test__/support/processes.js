// Hosts as child processes.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const children = new Set();

/**
 * Starts a host process. `output` is what its runs passed to it, together and by run; `ended` resolves to code and signal.
 *
 * @param {{kubeconfig: string, namespace: string}} cluster
 * @param {{options: object, runs?: number, listen?: boolean, stays?: number, events?: boolean,
 *   env?: Record<string, string>}} what
 */
export function startHost({ kubeconfig, namespace }, { env, ...what }) {
  const script = fileURLToPath(new URL('./host-process.mjs', import.meta.url));
  const order = JSON.stringify({ cluster: { kubeconfig, namespace }, ...what });
  const child = spawn(process.execPath, [script, order], { env: { ...process.env, ...env } });
  children.add(child);
  /** @typedef {{stdout: string, stderr: string, result?: any, error?: string}} RunOutput */
  /** @type {RunOutput[]} */
  const runs = Array.from({ length: what.runs ?? 1 }, () => ({ stdout: '', stderr: '' }));
  /** @type {RunOutput & {heard: boolean, errors: string, events: object[], runs: RunOutput[]}} */
  const output = { stdout: '', stderr: '', heard: false, errors: '', events: [], runs };
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      const { run, stream, chunk, heard, event, result, error } = JSON.parse(line);
      if (stream) {
        output[stream] += chunk;
        runs[run][stream] += chunk;
      }
      if (heard) output.heard = true;
      if (event) output.events.push(event);
      if (result) output.result = runs[run].result = result;
      if (error) output.error = runs[run].error = error;
    }
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    output.errors += text;
  });
  const ended = new Promise((resolve) => {
    child.once('close', (code, signal) => {
      children.delete(child);
      resolve({ code, signal });
    });
  });
  return { child, output, ended };
}

/** Ends every host process that is still there. */
export function killHosts() {
  for (const child of children) child.kill('SIGKILL');
}
