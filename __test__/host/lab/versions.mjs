// What the suites install. The host's version is the newest one that was tried (see the peer dependency); the variable
// HOST_VERSION picks another one. The older one is the oldest that the peer dependency allows: it installs no adapters.
export const HOST_PACKAGE = 'paperclipai';
export const HOST_VERSION = process.env.HOST_VERSION ?? '2026.916.1';
export const OLDER_HOST_VERSION = '2026.403.0';

/** The host needs Node 24.11 or newer; the npm package `node` ships it as a program. */
export const NODE_MAJOR = 24;

/** The npm with which the host installs adapters, so that the machine's npm does not matter. */
export const NPM_MAJOR = 11;
