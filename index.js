export { label, models, type } from './js/identity.js';
export { agentConfigurationDoc } from './js/doc.js';
export { createServerAdapter } from './js/adapter.js';
export { printClaudeStreamEvent } from './js/print.js';
