import { requestOf } from '../../../js/request.js';
import { binding } from '../compat.js';

export const getSelfPodInfo = (kubeconfigPath) =>
  binding.getSelfPodInfo(requestOf({ config: { kubeconfig: kubeconfigPath } }));

// The clients of the compat are native, one per kubeconfig. These names exist to be replaced by a test, whose
// replacements the bridge then asks.
const notInJavaScript = () => {
  throw new Error('this client is native: only its mock can be asked from JavaScript');
};

export const getBatchApi = notInJavaScript;
export const getCoreApi = notInJavaScript;
export const getAuthzApi = notInJavaScript;
export const getLogApi = notInJavaScript;
export const resetCache = notInJavaScript;
