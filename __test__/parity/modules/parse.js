import { binding } from '../compat.js';

const json = (value) => JSON.stringify(value ?? null);

export const { parseClaudeStreamJson, extractClaudeLoginUrl } = binding;

export const detectClaudeLoginRequired = ({ parsed, stdout, stderr }) =>
  binding.detectClaudeLoginRequired(json(parsed), stdout, stderr);
export const describeClaudeFailure = (parsed) => binding.describeClaudeFailure(json(parsed));
export const isClaudeMaxTurnsResult = (parsed) => binding.isClaudeMaxTurnsResult(json(parsed));
export const isClaudeUnknownSessionError = (parsed) => binding.isClaudeUnknownSessionError(json(parsed));
