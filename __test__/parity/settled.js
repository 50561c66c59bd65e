import { errText } from '../../js/errors.js';

/** A callback that neither throws nor rejects: it resolves to the text of its error, if any. */
export function settled(callback) {
  return async (...args) => {
    try {
      await callback(...args);
      return undefined;
    } catch (error) {
      return errText(error);
    }
  };
}
