import { requestOf } from '../../../js/request.js';
import { binding } from '../compat.js';

export const getSelfPodInfo = (kubeconfigPath) =>
  binding.getSelfPodInfo(requestOf({ config: { kubeconfig: kubeconfigPath } }));

// The adapter's clients are native, one per kubeconfig. Tests replace these names; the bridge calls the replacements.
const notInJavaScript = () => {
  throw new Error('this client is native: only its mock can be asked from JavaScript');
};

export const getBatchApi = notInJavaScript;
export const getCoreApi = notInJavaScript;
export const getAuthzApi = notInJavaScript;
export const getLogApi = notInJavaScript;
export const resetCache = notInJavaScript;
