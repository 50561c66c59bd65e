import { Problem } from '../../../tools/dev/lib.mjs';
import { endCommands } from './system.mjs';

/** Collects what has to be ended, and ends it, the newest first. It can run in the middle of a start. */
export function makeEndings() {
  const endings = [];
  let running;
  return {
    /** @param {() => Promise<void>} end */
    async add(end) {
      if (!running) {
        endings.push(end);
        return;
      }
      await end();
      throw new Problem('interrupted');
    },
    /** Runs all of them, once. An error is logged, and the rest still run. */
    run() {
      running ??= (async () => {
        endCommands();
        for (const end of endings.toReversed()) {
          await end().catch((error) => console.error(`while stopping: ${error.message}`));
        }
      })();
      return running;
    },
  };
}
