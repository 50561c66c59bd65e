// The documentation as a reader meets it on the repository's page: links lead somewhere, and each page can be found.
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folders = ['', 'docs', 'docs/decisions', 'deploy', 'tools/dev', 'tools/kubernetes'];
const pages = folders.flatMap((folder) =>
  readdirSync(path.join(root, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => path.join(folder, name)),
);

/** @param {string} page */
const read = (page) => readFileSync(path.join(root, page), 'utf8');

/** The text of a page without its code. @param {string} page */
const prose = (page) =>
  read(page)
    .replaceAll(/^```[\s\S]*?^```/gm, '')
    .replaceAll(/`[^`\n]*`/g, 'code');

/**
 * The links of a page to files of the repository: the file, from the root, and the heading.
 *
 * @param {string} page
 */
function links(page) {
  return [...prose(page).matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, link = '']) => link)
    .filter((link) => !/^[a-z]+:/.test(link))
    .map((link) => {
      const [file, heading] = link.split('#');
      return { file: file ? path.join(path.dirname(page), file) : page, heading };
    });
}

/** The names of a page's headings in links. @param {string} page */
function headings(page) {
  return [...read(page).matchAll(/^#+ (.+)$/gm)].map(([, text = '']) =>
    text
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-'),
  );
}

describe('the pages', () => {
  it.each(pages)('links_of_%s_lead_somewhere', (page) => {
    const broken = links(page).filter(({ file, heading }) => {
      if (!existsSync(path.join(root, file))) return true;
      return heading && file.endsWith('.md') && !headings(file).includes(heading);
    });
    expect(broken).toEqual([]);
  });

  it('of_docs_are_all_found_from_its_first', () => {
    const found = new Set(['docs/README.md']);
    for (const page of found) {
      for (const { file } of links(page)) {
        const isPage = file.startsWith('docs') && statSync(path.join(root, file)).isFile();
        if (isPage && file.endsWith('.md')) found.add(file);
      }
    }
    expect(pages.filter((page) => page.startsWith('docs') && !found.has(page))).toEqual([]);
    const first = new Set(links('docs/README.md').map(({ file }) => file));
    const unlisted = pages.filter((page) => /^docs\/[^/]+\.md$/.test(page) && !first.has(page));
    expect(unlisted).toEqual(['docs/README.md']);
  });

  it('readme_has_at_most_120_lines_and_its_parts', () => {
    const text = read('README.md');
    expect(text.trimEnd().split('\n').length).toBeLessThanOrEqual(120);
    expect(text).toMatch(/!\[[^\]]+\]\(docs\/\w+\.png\)/);
    expect(text).toMatch(/^npm start .*\nnpm test /m);
    expect(text).toMatch(/^## Install/m);
    expect(text).toContain('(docs/README.md)');
  });
});
