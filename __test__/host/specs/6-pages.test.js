// The host's pages as a user sees them, in headless Chromium.
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';

import { getConfigSchema } from '../../../js/config-schema.js';
import { eventLines } from '../../support/recordings.js';
import { openBrowser, openPage, shoot } from '../browser.js';
import { api, eventually, installed, lab, newAgent, newCompany, oneRun } from '../support.js';

/** Keys that the host's form shows in its run policy, which is collapsed. */
const RUN_POLICY = /timeout|grace|lifecycle/i;

let browser;
let company;
let agent;
beforeAll(async () => {
  await installed();
  company = await newCompany('Acme');
  agent = await newAgent(company, 'Ada');
  browser = await openBrowser();
});
afterAll(() => browser?.close());
afterEach(async () => {
  for (const context of browser.contexts()) await context.close();
});

const pageOf = (rest, options) =>
  openPage(browser, `/${company.issuePrefix}/agents/${agent.urlKey}/${rest}`, options);

/** The box below the heading of the transcript. */
const headingOf = (page) => page.getByText(/^Transcript \(\d+\)$/);
const transcriptOf = (page) => headingOf(page).locator('xpath=../following-sibling::*[1]');

describe('the page of a run', () => {
  let run;
  beforeAll(async () => {
    run = await oneRun(agent);
  });

  it('shows status, tokens and cost', async () => {
    const page = await pageOf(`runs/${run.id}`);
    const main = page.locator('main');
    await main.getByText('succeeded').first().waitFor();
    await main.getByText('$0.0034').waitFor();
    const text = await main.innerText();
    expect(text).toMatch(/Input\s+240\s+Output\s+84\s+Cached\s+128\s+Cost\s+\$0\.0034/);
    expect(text).toContain('anthropic/claude-opus-4-8[1m]');
    await shoot(page, 'run');
  });

  it('shows the transcript as text, commands and their results, not as JSON', async () => {
    const page = await pageOf(`runs/${run.id}`, { height: 1600 });
    const transcript = transcriptOf(page);
    await transcript.getByText('Looking — naïve café ✓ first.').waitFor();
    await transcript.getByText('Executed 2 commands').click();
    await transcript.getByText('seq 1 20').waitFor();
    const text = await transcript.innerText();
    expect(text).toMatch(/model claude-opus-4-8\[1m\] • session [0-9a-f-]{36}/);
    expect(text).toMatch(/echo one; echo two\s+one\s+two/);
    expect(text).toMatch(/seq 1 20\s+1\s+2\s+3\s/);
    expect(text).toMatch(/All done\./);
    expect(text).toContain('240 / 84 / $0.003364');
    expect(text).toContain('[paperclip] Created K8s Job: ');
    expect(text).not.toMatch(/[{"]type"\s*:/);

    // Readable: the adapter's lines collapsed, the rest visible.
    await transcript.getByLabel('Collapse stdout').first().click();
    await transcript.evaluate((box) => {
      box.style.maxHeight = 'none';
    });
    await shoot(page, 'transcript-page');
    const [above, box] = [await headingOf(page).boundingBox(), await transcript.boundingBox()];
    await shoot(page, 'transcript', {
      clip: {
        x: box.x - 12,
        y: above.y - 12,
        width: box.width + 24,
        height: box.y + box.height - above.y + 24,
      },
    });
  });

  it('shows every kind of line of the CLI as text, and none as JSON', async () => {
    const lines = eventLines.map(({ line }) => line);
    const talkative = await newAgent(company, 'Cleo', {
      scenario: 'script',
      env: { CLAUDE_STAND_IN_EVENTS: lines.join('\n') },
    });
    const every = await oneRun(talkative);
    const page = await openPage(
      browser,
      `/${company.issuePrefix}/agents/${talkative.urlKey}/runs/${every.id}`,
      { height: 2400 },
    );
    const transcript = transcriptOf(page);
    let text = '';
    const shown = [
      '[subagent Explore abcdef] Look for tests',
      '[image image/png, 2 kB]',
      'API 529 (overloaded), attempt 1 of 1, in 0.5 s',
      'Context compacted (190k to 12k tokens)',
      'Switched to Sonnet 5 because Opus 5 is overloaded',
      'Bash, rm is not allowed',
      'The transcript and global config could not be written (ENOSPC)',
    ];
    // The page parses a log bit by bit.
    await eventually(async () => {
      text = await transcript.innerText().catch(() => '');
      return shown.every((line) => text.includes(line));
    }, 'every kind of line in the transcript');
    // What an event of the CLI looks like.
    expect(text.split('\n').filter((line) => /"type"\s*:/.test(line))).toEqual([]);
    await transcript.evaluate((box) => {
      box.style.maxHeight = 'none';
    });
    await shoot(page, 'transcript-of-all-kinds', { fullPage: true });
  });

  it('shows why a run failed', async () => {
    const failing = await newAgent(company, 'Bea', { scenario: 'auth' });
    const failed = await oneRun(failing);
    const page = await openPage(
      browser,
      `/${company.issuePrefix}/agents/${failing.urlKey}/runs/${failed.id}`,
    );
    await page
      .locator('main')
      .getByText('Claude run failed: subtype=success: Invalid API key')
      .first()
      .waitFor();
    await shoot(page, 'failed-run');
  });

  // Once this fails, the host has fixed it: remove `letParserStart`, this test, and the sentence in the README.
  it('shows the raw log in the host as published, which starts no adapter’s parser in this browser', async () => {
    const page = await openPage(browser, '/', { asPublished: true });
    const died = new Promise((resolve) => {
      page.on('worker', (worker) => worker.on('close', resolve));
    });
    await page.goto(`${lab.url}/${company.issuePrefix}/agents/${agent.urlKey}/runs/${run.id}`);
    await died;
    await transcriptOf(page).getByText('"type":"assistant"').first().waitFor();
  });
});

describe('the page of an agent’s configuration', () => {
  it('shows every field of this adapter, with its default, and stores what is entered', async () => {
    const page = await pageOf('configuration', { height: 3200 });
    await page.getByText('Turn limit per run').waitFor();
    await page.getByText('Advanced Run Policy').click();
    for (const { key, label, meta } of getConfigSchema().fields) {
      if (meta) {
        expect(await page.getByText(label, { exact: true }).count(), key).toBe(0);
        continue;
      }
      const place = page.locator(
        `[data-config-section="${RUN_POLICY.test(key) ? 'run-policy' : 'configuration'}"]`,
      );
      await place
        .getByText(label, { exact: true })
        .waitFor({ timeout: 5_000 })
        .catch(() => {
          throw new Error(`the form has no field "${label}" (${key})`);
        });
    }
    const field = (label) =>
      page.locator(`div:has(> div > label:text-is("${label}"))`).locator('input, textarea').first();
    expect(await field('Turn limit per run').inputValue()).toBe('1000');
    expect(await field('Kubeconfig path').inputValue()).toBe(lab.config.kubeconfig);
    await shoot(page, 'configuration');

    await field('CPU limit').fill('2');
    await field('Node selector').fill('disk=ssd');
    await page.getByRole('button', { name: 'Save changes' }).click();
    const saved = { 'resources.limits.cpu': '2', nodeSelector: 'disk=ssd' };
    const { adapterConfig } = await eventually(async () => {
      const now = await api('GET', `/agents/${agent.id}`);
      return now.adapterConfig.nodeSelector && now;
    }, 'the saved configuration');
    expect(adapterConfig).toMatchObject({ ...lab.config, ...saved });
  });

  it('shows the checks of the environment test', async () => {
    const page = await pageOf('configuration', { height: 3600 });
    await page.getByRole('button', { name: 'Run test' }).click();
    await page.getByText('Test details', { exact: true }).click();
    await page.getByText(`RBAC: allowed to create Jobs in ${lab.namespace}`).waitFor();
    const text = await page.locator('main').innerText();
    expect(text).toContain(`Kubernetes API reachable; running in namespace ${lab.namespace}`);
    expect(text).toContain(`RBAC: allowed to watch Pods in ${lab.namespace}`);
    expect(text).toContain('which leads from its pod to the pod itself: set paperclipApiUrl');
    await shoot(page, 'environment-test');
  });
});
