export { createServerAdapter } from './adapter.js';
export { execute } from './execute.js';
export { testEnvironment } from './environment.js';
export { sessionCodec } from './session.js';
