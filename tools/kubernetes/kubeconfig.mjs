/** A kubeconfig for one user with a token. */
export function kubeconfig({ api, ca, token, user, namespace = 'default' }) {
  return `${JSON.stringify(
    {
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'cluster', cluster: { server: api, 'certificate-authority-data': ca } }],
      users: [{ name: user, user: { token } }],
      contexts: [{ name: 'context', context: { cluster: 'cluster', user, namespace } }],
      'current-context': 'context',
    },
    null,
    2,
  )}\n`;
}
