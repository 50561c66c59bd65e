import type { TranscriptEntry } from '@paperclipai/adapter-utils' with { 'resolution-mode': 'import' };

/**
 * Turns one stdout line of a run into transcript entries. An event that says nothing to people gives none; a line that the
 * parser does not know becomes one `stdout` entry with the unchanged line.
 */
export declare function parseStdoutLine(line: string, ts: string): TranscriptEntry[];

/** @internal The events inside a line of text, and the text around them. */
export declare function eventsInside(line: string): Array<string | Record<string, unknown>>;
/** @internal The entries of one event; null where it is not of a known type and shape. */
export declare function entriesOf(event: Record<string, unknown>, ts: string): TranscriptEntry[] | null;
/** @internal The text of a tool's result, with placeholders for what is not text. */
export declare function toolResultText(content: unknown): string;
/** @internal The value without what is nested too deeply. */
export declare function shallow(value: unknown): unknown;
/** @internal What marks the lines of a subagent. */
export declare function subagentMark(event: Record<string, unknown>): string;
