// A process in which the package is updated, as a host does it: the entry file is imported anew, nothing else. It prints
// `loaded` and expects a line on stdin for each newer version that has been installed; at the end it prints its memory.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

const entry = import.meta.resolve('paperclip-adapter-claude-k8s');
const megabytes = () => Math.round(process.memoryUsage.rss() / 1e6);

/** Imports the entry; resolves to its adapter, after a call into its native half and back. @param {number} time */
async function load(time) {
  const adapter = (await import(`${entry}?t=${time}`)).createServerAdapter();
  const config = { kubeconfig: '/no/such/kubeconfig' };
  const { checks } = await adapter.testEnvironment({ adapterType: 'claude_k8s', config });
  assert.equal(checks[0].code, 'k8s_api_unreachable');
  return adapter;
}

const adapters = [await load(0)];
const memory = [megabytes()];
console.log('loaded');
for await (const line of createInterface(process.stdin)) {
  assert.equal(line, '');
  const adapter = await load(adapters.length);
  assert.notEqual(adapter.execute, adapters.at(-1)?.execute, 'the modules are the newer version’s');
  adapters.push(adapter);
  memory.push(megabytes());
  console.log('loaded');
}
if (process.platform === 'linux') {
  const addons = readFileSync('/proc/self/maps', 'utf8').match(/\S+\.node\b/g);
  assert.equal(new Set(addons).size, adapters.length, 'each version has an addon of its own');
}
console.log(`memory after each version: ${memory.join(', ')} MB`);
