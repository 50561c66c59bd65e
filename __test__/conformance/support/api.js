// Plain requests to an API server, with the credentials of a kubeconfig.
import { readFileSync } from 'node:fs';
import https from 'node:https';
import * as k8s from '@kubernetes/client-node';

import { isReset } from '../../../tools/simulator/cluster.mjs';

/** A request whose answer was not 2xx. */
export class ApiFailure extends Error {
  constructor(request, code, body) {
    super(`${request}: ${code} ${JSON.stringify(body)}`);
    this.code = code;
    this.body = body;
  }
}

/**
 * @param {string} file a kubeconfig
 */
export async function apiOf(file) {
  const config = new k8s.KubeConfig();
  config.loadFromString(readFileSync(file, 'utf8'));
  /** @type {https.RequestOptions} */
  const options = {};
  await config.applyToHTTPSOptions(options);
  const agent = new https.Agent({
    ca: options.ca,
    cert: options.cert,
    key: options.key,
    keepAlive: true,
    maxSockets: 8,
  });
  const server = config.getCurrentCluster()?.server;
  const token = config.getCurrentUser()?.token;
  if (!server) throw new Error(`${file} names no cluster`);

  /**
   * Resolves to the parsed answer, or to its text if it is not JSON.
   *
   * @returns {Promise<any>}
   */
  function request(method, where, body, { type = 'application/json', bearer = token } = {}) {
    const text = body === undefined ? '' : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const call = https.request(new URL(where, server), {
        method,
        agent,
        headers: {
          ...(bearer ? { authorization: `Bearer ${bearer}` } : {}),
          'content-type': type,
          'content-length': Buffer.byteLength(text),
        },
      });
      call.once('error', (error) => {
        // A kept connection was closed meanwhile: the request is sent again, on another one.
        if (call.reusedSocket && isReset(error)) resolve(request(method, where, body, { type, bearer }));
        else reject(error);
      });
      call.once('response', (response) => {
        let answer = '';
        response.setEncoding('utf8').on('data', (chunk) => {
          answer += chunk;
        });
        response.once('error', reject);
        response.once('end', () => {
          const parsed = parse(answer);
          const { statusCode = 0 } = response;
          if (statusCode >= 200 && statusCode < 300) resolve(parsed);
          else reject(new ApiFailure(`${method} ${where}`, statusCode, parsed));
        });
      });
      call.end(text);
    });
  }

  return {
    server,
    request,
    get: (where, override) => request('GET', where, undefined, override),
    post: (where, body, override) => request('POST', where, body, override),
    /** A merge patch. */
    patch: (where, body) => request('PATCH', where, body, { type: 'application/merge-patch+json' }),
    delete: (where, body) => request('DELETE', where, body),
    /** The Status that a request is refused with. */
    refusal: async (/** @type {Parameters<typeof request>} */ ...args) => {
      const answer = await request(...args).catch((error) => error);
      if (!(answer instanceof ApiFailure))
        throw answer instanceof Error ? answer : new Error(`${args.join(' ')} was not refused`);
      return { code: answer.code, ...answer.body };
    },
    close: () => agent.destroy(),
  };
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
