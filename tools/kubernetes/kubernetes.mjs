// Kubernetes from Debian's source package, which has all of it; Debian's binary packages have only the client.
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';

import { step } from '../dev/lib.mjs';
import { cache, once } from './cache.mjs';
import { output } from './command.mjs';
import { goToolchain, source } from './debian.mjs';

const PROGRAMS = ['kube-apiserver', 'kube-controller-manager', 'kube-scheduler', 'kubelet'];
const ROOT = 'src/k8s.io/kubernetes';
/** The version that the API server reports; without it, that would be v0.0.0. */
const VERSION = { gitVersion: 'v1.20.2', gitMajor: '1', gitMinor: '20' };
const LDFLAGS = [
  '-s -w',
  ...['component-base/version', 'client-go/pkg/version'].flatMap((name) =>
    Object.entries(VERSION).map(
      ([key, value]) => `-X k8s.io/kubernetes/vendor/k8s.io/${name}.${key}=${value}`,
    ),
  ),
].join(' ');

/** Builds the programs that are missing; returns their folder. */
export async function kubernetes() {
  const bin = path.join(cache, 'kubernetes');
  if (PROGRAMS.every((program) => existsSync(path.join(bin, program)))) return bin;
  for (const program of PROGRAMS) {
    await once(`kubernetes/${program}`, async (dir) => {
      const go = await goCommand();
      step(`Building ${program} (once; a few minutes)`);
      await go(
        'build',
        `-ldflags=${LDFLAGS}`,
        '-o',
        path.join(dir, program),
        `k8s.io/kubernetes/cmd/${program}`,
      );
    });
  }
  // The source is no longer needed, and takes more than a gigabyte.
  for (const folder of ['kubernetes-source', 'toolchain', 'go-build'])
    rmSync(path.join(cache, folder), { recursive: true, force: true });
  return bin;
}

/** `go` in GOPATH mode over a complete tree of Kubernetes. */
async function goCommand() {
  const goroot = await goToolchain();
  const run = (gopath, ...args) =>
    output('nice', ['-n', '10', path.join(goroot, 'bin/go'), ...args], {
      cwd: path.join(gopath, ROOT),
      env: {
        CGO_ENABLED: '0',
        GO111MODULE: 'off',
        GOCACHE: path.join(cache, 'go-build'),
        GOFLAGS: '',
        GOPATH: gopath,
        GOROOT: goroot,
        GOTOOLCHAIN: 'local',
      },
    });
  const gopath = await once('kubernetes-source', async (dir) => {
    step('Getting the source of Kubernetes');
    const tree = path.join(dir, ROOT);
    mkdirSync(path.dirname(tree), { recursive: true });
    await source('kubernetes', tree);
    rmSync(`${tree}.download`, { recursive: true });
    await generateOpenApi((...args) => run(dir, ...args), tree, goroot);
  });
  return (...args) => run(gopath, ...args);
}

/**
 * Generates the one file that the source package lacks: the API's OpenAPI definitions, from every Go package that has
 * the tag for them.
 */
async function generateOpenApi(go, tree, goroot) {
  const tagged = taggedPackages(tree).toSorted();
  const generator = path.join(tree, 'openapi-gen');
  await go('build', '-o', generator, 'k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen');
  await output(
    generator,
    [
      ...['--go-header-file', 'hack/boilerplate/boilerplate.generatego.txt'],
      ...['--input-dirs', tagged.join(',')],
      ...[
        '--output-base',
        path.join(tree, '../..'),
        '--output-package',
        'k8s.io/kubernetes/pkg/generated/openapi',
      ],
      ...[
        '--output-file-base',
        'zz_generated.openapi',
        '--report-filename',
        path.join(tree, 'openapi-violations'),
      ],
    ],
    { cwd: tree, env: { GO111MODULE: 'off', GOPATH: path.join(tree, '../../..'), GOROOT: goroot } },
  );
}

function taggedPackages(tree) {
  const found = new Set();
  const skip = new Set(['k8s.io/code-generator', 'k8s.io/sample-apiserver', 'k8s.io/sample-controller']);
  const visit = (dir, name) => {
    if (skip.has(name.replace('k8s.io/kubernetes/vendor/', ''))) return;
    for (const entry of readdirSync(dir, { withFileTypes: true })) {
      const file = path.join(dir, entry.name);
      if (entry.isDirectory() && entry.name !== 'testdata') visit(file, `${name}/${entry.name}`);
      else if (entry.name.endsWith('.go') && /^\/\/ \+k8s:openapi-gen=/m.test(readFileSync(file, 'utf8')))
        found.add(name);
    }
  };
  visit(path.join(tree, 'staging/src/k8s.io'), 'k8s.io/kubernetes/vendor/k8s.io');
  visit(path.join(tree, 'pkg'), 'k8s.io/kubernetes/pkg');
  visit(path.join(tree, 'cmd'), 'k8s.io/kubernetes/cmd');
  return [...found];
}
