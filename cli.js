export { printClaudeStreamEvent } from './js/print.js';
