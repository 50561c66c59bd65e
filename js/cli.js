export { printClaudeStreamEvent } from './print.js';
