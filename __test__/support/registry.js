// An npm registry on loopback that has a few packages of its own; all others are the configured registry's. So the package is
// installed by its name, as its users do, from tarballs that are not published.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import path from 'node:path';

import { closeServer, listenOnLoopback } from './server.js';

/** @typedef {{ name: string; version: string; manifest: any; file: string }} Package */

/**
 * Serves tarballs until `close` is called.
 *
 * @param {string[]} tarballs paths of packages, as `npm pack` made them; the last of a name is its `latest`
 */
export async function serveRegistry(tarballs) {
  const upstream = execFileSync('npm', ['config', 'get', 'registry'], { encoding: 'utf8' }).trim();
  const packages = tarballs.map(read);
  /** Paths that npm asked for, in order. @type {string[]} */
  const asked = [];
  const server = createServer((request, response) => {
    const where = decodeURIComponent(new URL(request.url ?? '', 'http://registry').pathname).slice(1);
    asked.push(where);
    const [name = '', ...rest] = where.split('/');
    const ours = packages.filter((each) => each.name === name);
    const tarball = ours.find((each) => path.basename(each.file) === rest.at(-1));
    if (tarball) {
      response.end(readFileSync(tarball.file));
    } else if (ours.length > 0 && rest.length === 0) {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify(packument(ours, `http://${request.headers.host}`)));
    } else {
      response.writeHead(307, { location: new URL((request.url ?? '').slice(1), upstream).href }).end();
    }
  });
  const port = await listenOnLoopback(server);
  return {
    url: `http://127.0.0.1:${port}/`,
    asked,
    /** @param {string[]} more tarballs */
    publish: (more) => {
      packages.push(...more.map(read));
    },
    close: () => closeServer(server),
  };
}

/** @param {string} file a tarball @returns {Package} */
function read(file) {
  const text = execFileSync('tar', ['-xzOf', file, 'package/package.json'], { encoding: 'utf8' });
  const manifest = JSON.parse(text);
  return { name: manifest.name, version: manifest.version, manifest, file };
}

/** What a registry says of a package. @param {Package[]} versions @param {string} base address of the registry */
function packument(versions, base) {
  const { name, version: latest } = versions[versions.length - 1];
  const described = versions.map(({ version, manifest, file }) => {
    const integrity = `sha512-${createHash('sha512').update(readFileSync(file)).digest('base64')}`;
    const tarball = `${base}/${name}/-/${path.basename(file)}`;
    return [version, { ...manifest, dist: { tarball, integrity } }];
  });
  return { name, 'dist-tags': { latest }, versions: Object.fromEntries(described) };
}
