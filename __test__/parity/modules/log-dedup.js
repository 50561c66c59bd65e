import { binding } from '../compat.js';

export const { LogLineDedupFilter } = binding;

export const eventDedupKey = (event) => binding.eventDedupKey(JSON.stringify(event));
