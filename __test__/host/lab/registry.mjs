// An npm registry on loopback that serves this package as `npm pack` makes it and redirects npm for all others. So the
// host installs the adapter by its name, as its users do, from tarballs that are not published.
import { createHash } from 'node:crypto';
import { mkdirSync, existsSync, readFileSync, readdirSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';

import { root } from '../../../tools/dev/lib.mjs';
import { closeServer, listenOnLoopback } from '../../support/server.js';
import { finished } from './system.mjs';

/**
 * Packs the package, and the platform packages in `npm/` if there are any.
 *
 * @param {string} folder where the tarballs go
 * @returns {Promise<Array<{manifest: any, file: string}>>}
 */
export async function pack(folder) {
  mkdirSync(folder, { recursive: true });
  const platforms = path.join(root, 'npm');
  const built = existsSync(platforms)
    ? readdirSync(platforms)
        .map((name) => path.join(platforms, name))
        .filter((dir) => holdsAddon(dir))
    : [];
  /** @type {{manifest: any, file: string}[]} */
  const packed = [];
  for (const dir of [root, ...built]) {
    const report = JSON.parse(
      await finished(
        'npm',
        ['pack', '--json', '--ignore-scripts', '--loglevel=error', '--pack-destination', folder],
        {
          cwd: dir,
        },
      ),
    );
    // npm 12 answers with an object by name, older ones with a list.
    const [{ filename }] = Array.isArray(report) ? report : Object.values(report);
    const file = path.join(folder, filename);
    const manifest = JSON.parse(await finished('tar', ['-xzOf', file, 'package/package.json']));
    packed.push({ manifest, file });
  }
  return packed;
}

function holdsAddon(dir) {
  return (
    existsSync(path.join(dir, 'package.json')) && readdirSync(dir).some((name) => name.endsWith('.node'))
  );
}

/**
 * Serves the tarballs.
 *
 * @param {Awaited<ReturnType<typeof pack>>} packed
 */
export async function startRegistry(packed) {
  const upstream = (await finished('npm', ['config', 'get', 'registry', '--loglevel=error']))
    .trim()
    .replace(/\/$/, '');
  const tarballs = new Map(packed.map((one) => [path.basename(one.file), readFileSync(one.file)]));
  /** Names that npm asked this registry for, in order. @type {string[]} */
  const asked = [];
  const server = http.createServer((request, response) => {
    const where = decodeURIComponent(new URL(request.url ?? '', 'http://registry').pathname).slice(1);
    asked.push(where);
    const ours = packed.find((one) => one.manifest.name === where);
    if (ours) {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify(packument(ours, tarballs, `http://${request.headers.host}`)));
    } else if (tarballs.has(path.basename(where))) {
      response.setHeader('content-type', 'application/octet-stream');
      response.end(tarballs.get(path.basename(where)));
    } else {
      response.writeHead(307, { location: `${upstream}${request.url}` }).end();
    }
  });
  const port = await listenOnLoopback(server);
  return { url: `http://127.0.0.1:${port}`, asked, stop: () => closeServer(server) };
}

/** What a registry answers about a package with one version. */
function packument({ manifest, file }, tarballs, base) {
  const name = path.basename(file);
  const integrity = `sha512-${createHash('sha512').update(tarballs.get(name)).digest('base64')}`;
  const { version } = manifest;
  return {
    name: manifest.name,
    'dist-tags': { latest: version },
    versions: { [version]: { ...manifest, dist: { tarball: `${base}/${name}`, integrity } } },
  };
}
