import type { ClaudeK8sAdapter, ClaudeK8sSessionCodec } from '../index.js';

export { createServerAdapter } from '../index.js';

/** Runs one heartbeat of an agent as a Kubernetes Job and reports how it went. */
export declare const execute: ClaudeK8sAdapter['execute'];

/** Checks what a run would need: the API, the namespace, permissions, the Secret and the PVC. */
export declare const testEnvironment: ClaudeK8sAdapter['testEnvironment'];

/** Reads and writes stored session data. */
export declare const sessionCodec: ClaudeK8sSessionCodec;
