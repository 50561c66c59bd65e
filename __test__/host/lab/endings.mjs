import { Problem } from '../../../tools/dev/lib.mjs';
import { endCommands } from './system.mjs';

/** What has to be ended, the newest first. It can be run in the middle of a start. */
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
    /** Runs all of them, once. What goes wrong is told and does not keep the rest from ending. */
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
