/** The adapter type under which the host registers this package. */
export const type = 'claude_k8s';

/** The name people see in the host's UI. */
export const label = 'Claude (Kubernetes)';

/**
 * There is no fixed model list: the host calls `listModels()`. The export itself must exist.
 *
 * @type {undefined}
 */
export const models = undefined;
