// The Kubernetes versions that `cluster:up` can build, and what differs between them.
import { Problem } from '../dev/lib.mjs';

/**
 * @typedef {object} Version
 * @property {string} minor
 * @property {string} patch what is built
 * @property {string} modfile its module file in `modules/kubernetes`; the checksums lie beside it
 * @property {string[]} gates feature gates that newer versions have on by themselves
 * @property {string[]} apis API versions that newer versions serve by themselves
 */

/** MutatingAdmissionPolicy is generally available from 1.36 on. */
const POLICIES = {
  gates: ['MutatingAdmissionPolicy=true'],
  apis: ['admissionregistration.k8s.io/v1beta1=true'],
};

/** The first is the default. */
const VERSIONS = [
  { minor: '1.37', patch: '1.37.2', modfile: 'go.mod', gates: [], apis: [] },
  { minor: '1.36', patch: '1.36.3', modfile: '1.36.mod', gates: [], apis: [] },
  { minor: '1.35', patch: '1.35.4', modfile: '1.35.mod', ...POLICIES },
  { minor: '1.34', patch: '1.34.4', modfile: '1.34.mod', ...POLICIES },
];

/**
 * The version that CLUSTER_VERSION names, else the newest.
 *
 * @returns {Version}
 */
export function clusterVersion(wanted = process.env.CLUSTER_VERSION) {
  if (!wanted) return VERSIONS[0];
  const found = VERSIONS.find(({ minor }) => minor === wanted);
  if (!found) {
    const known = VERSIONS.map(({ minor }) => minor).join(', ');
    throw new Problem(`CLUSTER_VERSION=${wanted}: there is ${known}.`);
  }
  return found;
}
