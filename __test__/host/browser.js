// Headless Chromium in front of the host's pages.
import { appendFileSync } from 'node:fs';
import path from 'node:path';

import { chromium } from 'playwright-core';

import { lab } from './support.js';

const log = path.join(lab.logs, 'browser.log');

/** Starts Chromium; it ends with `close()`, or with this process. */
export const openBrowser = () =>
  chromium.launch({
    executablePath: lab.browser,
    // Chromium has no sandbox as root, and is not to send requests outside this machine.
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });

/**
 * Opens a page of the host; its console output and failed requests go to `browser.log`.
 *
 * @param {import('playwright-core').Browser} browser
 * @param {string} where path below the host's address
 * @param {{asPublished?: boolean, width?: number, height?: number}} [options] `asPublished`: without
 *   {@link letParserStart}
 */
export async function openPage(browser, where, { asPublished = false, width = 1440, height = 1000 } = {}) {
  const page = await browser.newPage({
    viewport: { width, height },
    colorScheme: 'light',
    reducedMotion: 'reduce',
  });
  // The limits end a test that hangs, and are far from what a page takes on a busy machine.
  page.setDefaultTimeout(120_000);
  const note = (line) => appendFileSync(log, `${new Date().toISOString()} ${where} ${line}\n`);
  page.on('console', (message) => note(`${message.type()}: ${message.text()}`));
  page.on('pageerror', (error) => note(`uncaught: ${error.stack}`));
  page.on('requestfailed', (request) =>
    note(`failed: ${request.method()} ${request.url()} ${request.failure()?.errorText}`),
  );
  page.on('response', (response) => {
    if (response.status() >= 400)
      note(`${response.status()}: ${response.request().method()} ${response.url()}`);
  });
  if (!asPublished) await page.addInitScript(letParserStart);
  await page.goto(`${lab.url}${where}`);
  return page;
}

/**
 * Hosts up to 2026.916.1 remove globals of the worker that evaluates an adapter's parser by assigning to them, in strict
 * mode. Two of these have only a getter in today's browsers, so the worker dies before it has read the parser, and the
 * page shows the raw log for every adapter (paperclipai/paperclip#12223). This gives the two a setter and leaves the
 * host's code unchanged.
 */
function letParserStart() {
  const before = `"use strict";
    for (const name of ['caches', 'indexedDB']) {
      Object.defineProperty(self, name, { value: undefined, writable: true, configurable: true });
    }`;
  const Blob = globalThis.Blob;
  globalThis.Blob = class extends Blob {
    constructor(parts, options) {
      super(options?.type === 'application/javascript' ? [before, ...parts] : parts, options);
    }
  };
}

/** Takes a screenshot. */
export const shoot = (page, name, options) =>
  page.screenshot({ path: path.join(lab.screenshots, `${name}.png`), ...options });
