// The cluster's certificate authority and what it signs. Everything is EC P-256; nothing outlives `cluster:down`.
import { generateKeyPairSync } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { output } from './command.mjs';

/** The subject of each certificate. */
const SUBJECTS = {
  etcd: '/CN=etcd',
  apiserver: '/CN=kube-apiserver',
  // The API server's client certificate, for etcd and the kubelet.
  'apiserver-client': '/O=system:masters/CN=kube-apiserver-client',
  kubelet: '/CN=kubelet',
};

/** Writes `NAME.crt` and `NAME.key` for each, `ca.crt`, and the key pair that signs service account tokens. */
export async function makeCertificates(dir) {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const file = (name) => path.join(dir, name);
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  await output('openssl', [
    ...['req', '-x509', ...newKey, '-keyout', file('ca.key'), '-out', file('ca.crt')],
    ...['-days', '3650', '-subj', '/CN=paperclip-test-cluster'],
    ...['-addext', 'keyUsage=critical,keyCertSign,cRLSign'],
  ]);
  writeFileSync(
    file('leaf.cnf'),
    [
      'basicConstraints=critical,CA:FALSE',
      'keyUsage=critical,digitalSignature',
      'extendedKeyUsage=serverAuth,clientAuth',
      'subjectAltName=IP:127.0.0.1,DNS:localhost',
    ].join('\n'),
  );
  for (const [name, subject] of Object.entries(SUBJECTS)) {
    const request = file(`${name}.csr`);
    await output('openssl', [
      'req',
      ...newKey,
      '-keyout',
      file(`${name}.key`),
      '-out',
      request,
      '-subj',
      subject,
    ]);
    await output('openssl', [
      ...['x509', '-req', '-in', request, '-CA', file('ca.crt'), '-CAkey', file('ca.key'), '-CAcreateserial'],
      ...['-days', '3650', '-extfile', file('leaf.cnf'), '-out', file(`${name}.crt`)],
    ]);
  }
  const { privateKey, publicKey } = generateKeyPairSync('rsa', {
    modulusLength: 2048,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs1', format: 'pem' },
  });
  writeFileSync(file('service-accounts.key'), privateKey, { mode: 0o600 });
  writeFileSync(file('service-accounts.pub'), publicKey);
}
