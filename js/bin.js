#!/usr/bin/env node
import { operate } from './operator.js';

process.exitCode = await operate(process.argv.slice(2), {
  write: (text) => process.stdout.write(text),
  warn: (text) => process.stderr.write(text),
});
