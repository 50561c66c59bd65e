import { knownModels } from './models.js';

/** The adapter type under which the host registers this package. */
export const type = 'claude_k8s';

/** The name people see in the host's UI. */
export const label = 'Claude (Kubernetes)';

/** The models that the host's form starts with, before `listModels()` has answered. */
export const models = knownModels();
