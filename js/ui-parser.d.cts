import type { TranscriptEntry } from '@paperclipai/adapter-utils' with { 'resolution-mode': 'import' };

/**
 * Turns one stdout line of a run into transcript entries, never none: a line that says nothing the
 * parser knows becomes one `stdout` entry with the untouched line.
 */
export declare function parseStdoutLine(line: string, ts: string): TranscriptEntry[];
