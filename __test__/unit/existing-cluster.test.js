// `npm run cluster:up -- --existing` in a cluster of another owner: what it says is missing, and what it deletes.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { afterEach, describe, expect, it } from 'vitest';

import { removeFolders, judge, newNamespace, removeLabelled } from '../../tools/kubernetes/existing.mjs';
import { BUSYBOX_IMAGE, NAMESPACE, labelsOf, manifests } from '../../tools/kubernetes/objects.mjs';

const UP = fileURLToPath(new URL('../../tools/kubernetes/up.mjs', import.meta.url));

/** @type {string[]} */
const folders = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/** Runs `cluster:up -- --existing` with a kubectl that is this script, or without one. */
function existing({ kubectl = '', kubeconfig = 'kubeconfig' }) {
  const dir = mkdtempSync(path.join(tmpdir(), 'existing-'));
  folders.push(dir);
  mkdirSync(path.join(dir, 'bin'));
  writeFileSync(path.join(dir, 'kubeconfig'), '{}');
  if (kubectl) {
    writeFileSync(path.join(dir, 'bin', 'kubectl'), `#!/bin/sh\n${kubectl}\n`);
    chmodSync(path.join(dir, 'bin', 'kubectl'), 0o755);
  }
  // The shell's own commands are enough for the script.
  const env = {
    PATH: path.join(dir, 'bin'),
    HOME: dir,
    XDG_CACHE_HOME: path.join(dir, 'cache'),
    PAPERCLIP_TEST_CLUSTER: 'unit',
    KUBECONFIG: path.join(dir, kubeconfig),
  };
  const { status, stdout, stderr } = spawnSync(process.execPath, [UP, '--existing'], {
    env,
    encoding: 'utf8',
  });
  const state = path.join(dir, 'cache', 'paperclip-adapter-claude-k8s', 'run', 'unit');
  const left = existsSync(state) ? readdirSync(state).toSorted() : [];
  return { status, stdout, lines: stderr.trim().split('\n'), left };
}

/** A kubectl that knows a cluster with one node and refuses what `case` answers with. */
const answering = (cases) => `case "$*" in
'version --client') ;;
*'config view'*) echo '{"clusters":[{"cluster":{"server":"https://example"}}]}' ;;
${cases}
*) ;;
esac`;

describe('what an existing cluster lacks', () => {
  it('kubectl_missing_is_one_line', () => {
    const { status, lines, left } = existing({});
    expect(lines).toEqual([
      '--existing: kubectl is not on the PATH or does not run: https://kubernetes.io/docs/tasks/tools',
    ]);
    expect(status).toBe(1);
    expect(left, 'no state stays').toEqual(['logs']);
  });

  it('kubeconfig_missing_is_one_line', () => {
    const { lines } = existing({ kubectl: answering(''), kubeconfig: 'nope' });
    expect(lines).toEqual(['--existing: KUBECONFIG names no file.']);
  });

  it('api_server_away_is_one_line', () => {
    const refusal = 'The connection to the server example was refused';
    const { lines } = existing({
      kubectl: answering(`*/readyz*) echo first >&2; echo '${refusal}' >&2; exit 1 ;;`),
    });
    expect(lines).toEqual([`--existing: the API server of KUBECONFIG does not answer: ${refusal}`]);
  });

  it('interruption_says_what_ends_what_was_begun', () => {
    const { status, lines, left } = existing({
      kubectl: answering('*/readyz*) kill -INT $PPID; sleep 5 ;;'),
    });
    expect(lines).toEqual([
      'Interrupted: npm run cluster:down ends what was begun, and cluster:up goes on with it.',
    ]);
    expect(status).toBe(130);
    expect(left).toContain('state.json');
  });

  it('missing_permissions_are_one_line_each', () => {
    const { lines } = existing({
      kubectl: answering(`*'can-i delete'*) echo no; exit 1 ;;`),
    });
    expect(lines).toEqual([
      '--existing: this account may not delete namespaces.',
      '--existing: this account may not delete persistentvolumes.',
    ]);
  });

  it('permissions_that_cannot_be_asked_are_not_missing', () => {
    const { lines } = existing({ kubectl: answering(`*'can-i'*) echo 'server error' >&2; exit 1 ;;`) });
    expect(lines).toEqual(['--existing: the permissions of this account are not to be had: server error']);
  });

  it('no_node_that_takes_pods_is_one_line', () => {
    const node = {
      metadata: { name: 'a' },
      spec: { unschedulable: true },
      status: { conditions: [{ type: 'Ready', status: 'True' }] },
    };
    const { lines } = existing({
      kubectl: answering(`*'get nodes'*) echo '${JSON.stringify({ items: [node] })}' ;;`),
    });
    expect(lines).toEqual(['--existing: no node is ready and takes pods.']);
  });

  describe('on a node', () => {
    const pod = {
      spec: {
        nodeName: 'a',
        containers: [
          { name: 'image-0', image: 'x' },
          { name: 'image-1', image: 'y' },
        ],
      },
    };
    const status = (...states) => ({
      status: { containerStatuses: states.map((state, at) => ({ name: `image-${at}`, state })) },
    });
    const ended = (exitCode) => ({ terminated: { exitCode } });
    const waiting = (reason) => ({ waiting: { reason } });

    it('image_that_is_not_there_is_named_with_reason', () => {
      expect(judge(pod, status(ended(0), waiting('ErrImageNeverPull')), false)).toEqual({
        node: 'a',
        lacking: [{ image: 'y', why: 'ErrImageNeverPull' }],
        sharesVolume: true,
      });
    });

    it('folder_is_not_known_where_no_image_is_there', () => {
      const found = status(waiting('ErrImageNeverPull'), waiting('ErrImagePull'));
      expect(judge(pod, found, false)?.sharesVolume).toBeUndefined();
    });

    it('image_that_is_being_pulled_is_waited_for', () => {
      const found = status(ended(1), waiting('ContainerCreating'));
      expect(judge(pod, found, false)).toBeUndefined();
      expect(judge(pod, found, true)).toMatchObject({ lacking: [{ image: 'y', why: 'ContainerCreating' }] });
    });

    it('folder_that_is_another_one_is_not_shared', () => {
      expect(judge(pod, status(ended(1), ended(1)), false)).toMatchObject({
        lacking: [],
        sharesVolume: false,
      });
    });

    it('pod_that_its_node_refused_lacks_images_for_that_reason', () => {
      expect(judge(pod, { status: { reason: 'OutOfpods' } }, true)?.lacking).toEqual([
        { image: 'x', why: 'OutOfpods' },
        { image: 'y', why: 'OutOfpods' },
      ]);
    });
  });
});

describe('what is made and deleted in an existing cluster', () => {
  const namespace = newNamespace();

  it('namespace_is_random_and_never_the_usual_one', () => {
    expect(namespace).toMatch(/^paperclip-test-[0-9a-f]{8}$/);
    expect(newNamespace()).not.toBe(namespace);
    expect(namespace).not.toBe(NAMESPACE);
  });

  it('every_object_is_labelled_and_in_its_own_namespace', () => {
    const items = manifests({ namespace, volume: '/volume', agentImage: 'agent:1' });
    expect(items.length).toBeGreaterThan(8);
    for (const { kind, metadata } of items) {
      expect(metadata.labels, kind).toMatchObject(labelsOf(namespace));
      if (kind === 'Namespace') expect(metadata.name).toBe(namespace);
      else if (kind === 'PersistentVolume') expect(metadata.name).toBe(`${namespace}-data`);
      else expect(metadata.namespace, kind).toBe(namespace);
    }
    const others = JSON.stringify(items).replaceAll(namespace, '').replaceAll(BUSYBOX_IMAGE, '');
    expect(others).not.toContain(`"namespace":"${NAMESPACE}"`);
  });

  it('folder_of_a_node_is_removed_by_a_labelled_pod', async () => {
    /** @type {any[]} */
    const made = [];
    const node = (name) => ({
      metadata: { name },
      spec: {},
      status: { conditions: [{ type: 'Ready', status: 'True' }] },
    });
    await removeFolders(
      async (args, input) => {
        if (input) made.push(JSON.parse(input));
        if (args.includes('nodes')) return JSON.stringify({ items: [node('a'), node('b')] });
        return args.includes('pods') ? JSON.stringify({ items: [{ status: { phase: 'Succeeded' } }] }) : '{}';
      },
      { namespace, volume: `/cache/${namespace}` },
    );
    const [space, { items: pods }] = made;
    expect(space.metadata.labels).toMatchObject(labelsOf(namespace));
    expect(pods.map(({ spec }) => spec.nodeName)).toEqual(['a', 'b']);
    for (const { metadata, spec } of pods) {
      expect(metadata.namespace).toBe(space.metadata.name);
      expect(spec.volumes).toEqual([
        { name: 'ours', hostPath: { path: '/cache', type: 'DirectoryOrCreate' } },
      ]);
      expect(spec.containers[0]).toMatchObject({
        command: ['rm', '-rf', `/ours/${namespace}`],
        volumeMounts: [{ name: 'ours', mountPath: '/ours' }],
      });
    }
  });

  it('only_what_carries_the_label_is_deleted', async () => {
    /** @type {string[][]} */
    const deletions = [];
    await removeLabelled(async (args) => {
      if (args[0] === 'api-resources')
        return 'namespaces\npersistentvolumes\npriorityclasses.scheduling.k8s.io\n';
      expect(args[0]).toBe('delete');
      deletions.push(args.slice(1));
      return '';
    }, namespace);
    const [[key, value]] = Object.entries(labelsOf(namespace));
    for (const [, ...rest] of deletions) {
      expect(rest.slice(0, 2)).toEqual(['-l', `${key}=${value}`]);
      expect(rest.slice(2).every((argument) => argument.startsWith('--'))).toBe(true);
      expect(rest).not.toContain('--all');
    }
    // A volume is held by the claim in the namespace.
    expect(deletions.map(([kind]) => kind)).toEqual([
      'priorityclasses.scheduling.k8s.io',
      'namespaces',
      'persistentvolumes',
    ]);
  });
});
