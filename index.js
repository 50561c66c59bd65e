// The entry. To update the adapter in place a host imports this file anew, and nothing that it imports: so it finds its
// version's own modules under a name that carries the version. `npm pack` makes that folder; a checkout has `js` alone.
import { existsSync, readFileSync } from 'node:fs';

const { version } = JSON.parse(readFileSync(new URL('package.json', import.meta.url), 'utf8'));
const packed = new URL(`v${version}/`, import.meta.url);
const modules = existsSync(packed) ? packed : new URL('js/', import.meta.url);
/** @param {string} name */
const load = (name) => import(new URL(`${name}.js`, modules).href);
const [identity, doc, adapter, print] = await Promise.all(['identity', 'doc', 'adapter', 'print'].map(load));

export const { label, models, type } = identity;
export const { agentConfigurationDoc } = doc;
export const { createServerAdapter } = adapter;
export const { printClaudeStreamEvent } = print;
