// Thirty marked secrets: in everything that a run can be given.

/** @param {string} prefix what all of them begin with */
export const marksOf = (prefix) =>
  Array.from({ length: 30 }, (_, index) => `${prefix}-${String(index).padStart(2, '0')}-secret`);

/**
 * What a run is given so that each mark is somewhere in it: for `hostRun`, merged with more.
 *
 * @param {string[]} marks
 * @param {{env?: Record<string, string>, config?: object, [key: string]: unknown}} [more]
 */
export function marked(marks, { env, config, ...more } = {}) {
  const own = Object.fromEntries(marks.slice(0, 20).map((mark, index) => [`OWN_${index}`, `x ${mark} $$`]));
  const [token, prompt, reason, wake, arg, mcp, url, header, note, workspace] = marks.slice(20);
  return {
    authToken: token,
    context: {
      taskId: 'task-1',
      wakeReason: reason,
      paperclipWake: { reason: wake, comments: [{ body: note }] },
      paperclipWorkspaces: [{ repoUrl: `https://user:${url}@host/x`, note: workspace }],
    },
    ...more,
    env: { ...own, ...env },
    config: {
      promptTemplate: `Say ${prompt}.`,
      extraArgs: ['--append-system-prompt', arg, '--mcp-config', JSON.stringify({ a: mcp, b: header })],
      ...config,
    },
  };
}

/** The marks that a text has, also in base64 as a Secret has its values. */
export function marksIn(marks, text) {
  const decoded = [...text.matchAll(/"([A-Za-z0-9+/]{16,}={0,2})"/g)].map(([, value]) =>
    Buffer.from(value, 'base64').toString('latin1'),
  );
  const all = [text, ...decoded].join('\n');
  return marks.filter((mark) => all.includes(mark));
}
