// A npm registry on loopback that has a few packages of its own; all others are the configured registry's.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import path from 'node:path';

/**
 * Serves tarballs until `close` is called.
 *
 * @param {string[]} tarballs paths of packages, as `npm pack` made them
 * @returns {Promise<{ url: string; close: () => Promise<void> }>}
 */
export async function serveRegistry(tarballs) {
  const upstream = execFileSync('npm', ['config', 'get', 'registry'], { encoding: 'utf8' }).trim();
  const packages = new Map(tarballs.map((file) => [manifestOf(file).name, file]));
  const server = createServer((request, response) => {
    const [, name = '', ...rest] = decodeURIComponent(request.url ?? '').split('/');
    const file = packages.get(name);
    if (!file) {
      response.writeHead(302, { location: new URL((request.url ?? '').slice(1), upstream).href }).end();
    } else if (rest.length > 0) {
      response.end(readFileSync(file));
    } else {
      response.setHeader('content-type', 'application/json');
      response.end(
        JSON.stringify(packument(file, `http://${request.headers.host}/${name}/-/${path.basename(file)}`)),
      );
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)));
  const address = /** @type {import('node:net').AddressInfo} */ (server.address());
  return {
    url: `http://127.0.0.1:${address.port}/`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** @param {string} file a tarball */
function manifestOf(file) {
  return JSON.parse(execFileSync('tar', ['-xzOf', file, 'package/package.json'], { encoding: 'utf8' }));
}

/** What a registry says of a package with one version. @param {string} file @param {string} tarball its address */
function packument(file, tarball) {
  const manifest = manifestOf(file);
  const integrity = `sha512-${createHash('sha512').update(readFileSync(file)).digest('base64')}`;
  const version = { ...manifest, dist: { tarball, integrity } };
  return {
    name: manifest.name,
    'dist-tags': { latest: manifest.version },
    versions: { [manifest.version]: version },
  };
}
