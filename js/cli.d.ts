export { printClaudeStreamEvent } from '../index.js';
