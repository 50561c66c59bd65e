import { networkInterfaces } from 'node:os';

/** An address of this machine that pods reach: not loopback. */
export function addressOfMachine() {
  const all = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  const found = all.find(({ family, internal }) => family === 'IPv4' && !internal);
  if (!found) throw new Error('this machine has no address that pods reach');
  return found.address;
}
