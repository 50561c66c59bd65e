import { createRequire } from 'node:module';

export const { parseStdoutLine } = createRequire(import.meta.url)('../../../js/ui-parser.cjs');
