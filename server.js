export { createServerAdapter } from './js/adapter.js';
export { execute } from './js/execute.js';
export { testEnvironment } from './js/environment.js';
export { sessionCodec } from './js/session.js';
