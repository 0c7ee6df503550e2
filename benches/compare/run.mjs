#!/usr/bin/env node
// The same loads against several servers, one after the other and round after round, so that what the machine does
// meanwhile meets all of them alike; prints medians over the rounds, and their ratios. See README.md.

import { writeFile } from 'node:fs/promises';
import { cpus, release } from 'node:os';
import { parseArgs } from 'node:util';

import { LOADS, goalRows, judged, medians, pairRows, table } from './report.mjs';
import { floor, mediasoup, mediasoupLacks, recorded, weirgate } from './targets.mjs';

const USAGE = `usage: benches/compare/run.mjs [OPTIONS]

  (nothing)             this tree's release build, the mediasoup server of benches/compare/server, and the floor bench
  --a=WORDS --b=WORDS   two weirgates: flags of each, before them a binary where it is not target/release/weirgate
  --io-compare          is --a='--io ring' --b='--io plain'
  --cores-compare       one-to-100 on one shard and on two, with what each shard sent

  --loads LIST          of ${Object.keys(LOADS).join(',')} [default: all]
  --rounds N            how often each server meets each load [default: 3]
  --seconds N           how long that is measured [default: 10]
  --warmup N            seconds before, which are not [default: 3]
  --server-cpus LIST    where a server runs [default: 0-0]
  --load-cpu N          where the generator runs [default: 1]
  --json FILE           all readings and medians; - for standard output, without the table
`;

const text = { type: 'string' };
const flag = { type: 'boolean' };
const OPTIONS = {
  a: text,
  b: text,
  'io-compare': flag,
  'cores-compare': flag,
  loads: text,
  rounds: { ...text, default: '3' },
  seconds: { ...text, default: '10' },
  warmup: { ...text, default: '3' },
  'server-cpus': { ...text, default: '0-0' },
  'load-cpu': { ...text, default: '1' },
  json: text,
  help: { ...flag, short: 'h' },
};

class Usage extends Error {}

function readOptions() {
  let values;
  try {
    ({ values } = parseArgs({ options: OPTIONS }));
  } catch (error) {
    throw new Usage(error.message);
  }
  for (const name of ['rounds', 'seconds', 'warmup']) {
    if (!/^[1-9]\d*$/.test(values[name])) throw new Usage(`--${name} ${values[name]}: a whole number above 0 is wanted`);
    values[name] = Number(values[name]);
  }
  const kinds = [values.a ?? values.b, values['io-compare'], values['cores-compare']];
  if (kinds.filter((kind) => kind !== undefined).length > 1) throw new Usage('one comparison at a time');
  if ((values.a === undefined) !== (values.b === undefined)) throw new Usage('--a and --b belong together');
  const all = values['cores-compare'] ? ['one-to-100'] : Object.keys(LOADS);
  values.loads = values.loads?.split(',') ?? all;
  const unknown = values.loads.find((load) => !Object.hasOwn(LOADS, load));
  if (unknown !== undefined) throw new Usage(`--loads: there is no load ${unknown}`);
  return values;
}

const say = (line) => process.stderr.write(`${line}\n`);

/** The targets, and the table that is made of them. */
async function plan(options) {
  const cpus = options['server-cpus'];
  const words = (flags) => flags.split(/\s+/).filter(Boolean);
  const two = (a, b) => ({ rows: pairRows, targets: [weirgate('A', words(a), cpus), weirgate('B', words(b), cpus)] });
  if (options.a !== undefined) return two(options.a, options.b);
  if (options['io-compare']) return two('--io ring', '--io plain');
  if (options['cores-compare']) return two('--cores 0-0', '--cores 0,1 --spread always');
  const lacks = await mediasoupLacks();
  if (lacks) say(`mediasoup is not measured, for it lacks ${lacks}.\nFigures recorded earlier, elsewhere, stand in its place.\n`);
  const theirs = lacks ? await recorded('recorded') : mediasoup('mediasoup', cpus);
  return { rows: goalRows, targets: [weirgate('weirgate', [], cpus), theirs, floor('floor')] };
}

/** By target, then by load: its readings, one a round. What a target cannot measure is said, and left out. */
async function measureAll({ targets, loads, rounds, ...options }) {
  const readings = targets.map(() => Object.fromEntries(loads.map((load) => [load, []])));
  for (let round = 1; round <= rounds; round += 1) {
    for (const load of loads) {
      for (const [index, target] of targets.entries()) {
        const place = `round ${round}/${rounds}  ${load}  ${target.name}`;
        try {
          const reading = await target.measure(load, options);
          readings[index][load].push(reading);
          say(`${place}: ${Math.round(reading.cpuNs)} ns a packet, p50 / p99 ${reading.p50} / ${reading.p99} µs`);
        } catch (error) {
          say(`${place}: ${error.stderr || error.message}`);
          process.exitCode = 1;
        }
      }
    }
  }
  return readings;
}

/** How evenly the shards of a target shared the sending. */
function split(target, load, readings) {
  const shares = readings.map(({ sentByShard = [] }) => {
    const all = sentByShard.reduce((sum, count) => sum + count, 0);
    return sentByShard.map((count) => `${((100 * count) / all).toFixed(1)} %`).join(' + ');
  });
  return `${target.name}, ${load}, sent by its shards: ${shares.join('; ')}`;
}

async function main() {
  const options = readOptions();
  if (options.help) return process.stdout.write(USAGE);
  const { rows, targets } = await plan(options);
  const { loads, rounds, seconds, warmup } = options;
  const machine = { cpu: cpus()[0].model, cpus: cpus().length, kernel: release() };
  const readings = await measureAll({ ...options, targets });
  const middle = readings.map((of) => Object.fromEntries(loads.map((load) => [load, medians(of[load])])));
  const head = [
    `${machine.cpu}, ${machine.cpus} cpus, Linux ${machine.kernel}; ${rounds} rounds of ${seconds} s, medians`,
    ...targets.map(({ name, what }) => `${name}: ${what}`),
  ];
  const splits = targets.flatMap((target, index) =>
    loads.filter((load) => readings[index][load][0]?.sentByShard?.length > 1).map((load) => split(target, load, readings[index][load])),
  );
  if (options.json !== '-') console.log([...head, '', table(rows(loads, middle, targets)), ...splits].join('\n'));
  if (options.json === undefined) return;
  const told = targets.map(({ name, what }, index) => ({ name, what, medians: middle[index], readings: readings[index] }));
  const goals = rows === goalRows && Object.fromEntries(loads.map((load) => [load, judged(load, middle.map((of) => of[load]))]));
  const json = `${JSON.stringify({ machine, rounds, seconds, warmup, targets: told, ...(goals && { goals }) }, null, 2)}\n`;
  if (options.json === '-') process.stdout.write(json);
  else await writeFile(options.json, json);
}

try {
  await main();
} catch (error) {
  say(error instanceof Usage ? `${error.message}\n\n${USAGE}` : String(error.stack));
  process.exitCode = error instanceof Usage ? 2 : 1;
}
