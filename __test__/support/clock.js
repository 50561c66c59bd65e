// Processes whose wall clock can be set (Linux with a C compiler, which building the addon needs as well).
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { temporaryFolder } from './temporary.js';

/** Why clocks cannot be set here; undefined if they can. */
export const noClocks =
  process.platform === 'linux' ? undefined : 'only Linux has LD_PRELOAD and the GNU C library';

let library;

function build() {
  if (library) return library;
  library = path.join(temporaryFolder('clock'), 'clock.so');
  const source = fileURLToPath(new URL('./clock.c', import.meta.url));
  const { status, stderr, error } = spawnSync('cc', ['-shared', '-fPIC', '-O1', '-o', library, source], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`cannot build the clock: ${error ?? stderr}`);
  return library;
}

/** A clock that is `seconds` ahead, and the environment of a process that uses it. */
export function settableClock(seconds = 0) {
  const preload = build();
  const file = path.join(temporaryFolder('clock'), 'offset');
  // Written in place: processes have the file mapped.
  const set = (ahead, flag = 'r+') => {
    const offset = Buffer.alloc(8);
    offset.writeBigInt64LE(BigInt(ahead));
    writeFileSync(file, offset, { flag });
  };
  set(seconds, 'w');
  return { set, env: { LD_PRELOAD: preload, CLOCK_FILE: file } };
}
