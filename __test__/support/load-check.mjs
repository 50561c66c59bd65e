// Run in every supported Node: the package loads twice, in a worker, and after the host's kind of reload, with one
// native state, and holds no process open. Exits by itself; the caller has a time limit.
import assert from 'node:assert/strict';
import { Worker, isMainThread, parentPort } from 'node:worker_threads';

// In a project where the package is installed, that one; in the checkout, this one.
const entry = import.meta.resolve('paperclip-adapter-claude-k8s');
const first = await import(entry);

if (isMainThread) {
  const reloaded = await import(`${entry}?t=${Date.now()}`);
  assert.notEqual(first, reloaded);
  assert.equal(first.createServerAdapter().execute, reloaded.createServerAdapter().execute);
  assert.equal(Object.keys(first.createServerAdapter()).length, 18);

  const { loadAddon } = await import(new URL('js/addon.js', entry).href);
  assert.deepEqual(loadAddon().activeJobs(), []);

  // A call into the native half and back, here and in a worker that ends right after it.
  assert.equal(await answer(first), 'fail');
  for (let round = 0; round < 3; round += 1) {
    const worker = new Worker(new URL(import.meta.url));
    const [output, code] = await Promise.all([
      new Promise((resolve) => worker.once('message', resolve)),
      new Promise((resolve) => worker.once('exit', resolve)),
    ]);
    assert.deepEqual([output, code], ['fail', 0]);
  }
  // A worker that is terminated during a call.
  const doomed = new Worker(new URL(import.meta.url));
  await new Promise((resolve) => doomed.once('online', resolve));
  await doomed.terminate();
  assert.equal(await answer(first), 'fail', 'the main thread still works');
} else {
  // Between threads, not windows: there is no origin.
  // oxlint-disable-next-line unicorn/require-post-message-target-origin
  parentPort?.postMessage(await answer(first));
}

/** Runs the environment test against a cluster that does not exist; only its report of that is checked. */
async function answer(adapterPackage) {
  const { status, checks } = await adapterPackage.createServerAdapter().testEnvironment({
    adapterType: 'claude_k8s',
    config: { kubeconfig: '/no/such/kubeconfig' },
  });
  assert.equal(checks[0].code, 'k8s_api_unreachable');
  return status;
}
