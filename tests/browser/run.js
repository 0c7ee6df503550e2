// Runs the test files one after another: each has a Chromium of its own, and two at once would starve the encoders.
// Arguments: names of test files; none: all. Prints node's report, and ends with 1 when a test failed.

import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';

const folder = fileURLToPath(new URL('.', import.meta.url));
const wanted = process.argv.slice(2);
const all = readdirSync(folder).filter((name) => name.endsWith('.test.js')).sort();
const files = all.filter((name) => !wanted.length || wanted.includes(name)).map((name) => folder + name);

// A return takes up to a minute in each of four kinds of watchers.
const timeout = Math.max(600_000, 240_000 * Number(process.env.WEIRGATE_RETURNS ?? 0));
const events = run({ files, concurrency: 1, timeout });
events.on('test:fail', () => {
  process.exitCode = 1;
});
const report = events.compose(new spec());
report.pipe(process.stdout);
await once(report, 'end');
