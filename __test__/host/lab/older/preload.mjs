// Loaded before the older host: lets it load this adapter in the place of one of its own.
import { registerHooks } from 'node:module';

const { OLDER_HOST_ENTRY, OLDER_HOST_ADAPTER } = process.env;
const folder = OLDER_HOST_ADAPTER?.replace(/[^/]+$/, '');

registerHooks({
  resolve(specifier, context, next) {
    if (specifier === 'hermes-paperclip-adapter/server')
      return { url: new URL('adapter.mjs', import.meta.url).href, shortCircuit: true };
    // The host's helpers are those of this host, as they are for an adapter that it ships.
    if (folder && context.parentURL?.startsWith(folder) && specifier.startsWith('@paperclipai/'))
      return next(specifier, { ...context, parentURL: OLDER_HOST_ENTRY });
    return next(specifier, context);
  },
});
