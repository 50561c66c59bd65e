// What the older host imports in the place of its own adapter.
const { createServerAdapter } = await import(/** @type {string} */ (process.env.OLDER_HOST_ADAPTER));

export const { execute, testEnvironment, sessionCodec, listSkills, syncSkills, detectModel } =
  createServerAdapter();
