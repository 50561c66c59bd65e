#!/usr/bin/env node
import { operate } from './operator.js';

for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (/** @type {NodeJS.ErrnoException} */ error) => {
    // A reader that has seen enough, such as `head`, does not make this a failure.
    if (error.code === 'EPIPE') process.exit();
    if (stream === process.stdout) process.stderr.write(`cannot write: ${error.message}\n`);
    process.exit(2);
  });
}

process.exitCode = await operate(process.argv.slice(2), {
  write: (text) => process.stdout.write(text),
  warn: (text) => process.stderr.write(text),
});
