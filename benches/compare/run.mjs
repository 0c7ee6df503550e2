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

const byLoad = (loads, value) => Object.fromEntries(loads.map((load) => [load, value(load)]));
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

/**
 * By target, then by load: its readings, one a round. Every second round goes the other way, so that nobody always
 * follows the same neighbour. What a target cannot measure is said, and left out.
 */
async function measureAll({ targets, loads, rounds, ...options }) {
  const readings = new Map(targets.map((target) => [target, byLoad(loads, () => [])]));
  for (let round = 1; round <= rounds; round += 1) {
    const order = round % 2 === 1 ? targets : targets.toReversed();
    for (const load of loads) {
      for (const target of order) {
        const place = `round ${round}/${rounds}  ${load}  ${target.name}`;
        try {
          const reading = await target.measure(load, options);
          readings.get(target)[load].push(reading);
          const { cpuNs, p50, p99, wrongPackets = 0 } = reading;
          const wrong = wrongPackets > 0 ? `, ${wrongPackets} packets were not what was sent` : '';
          say(`${place}: ${Math.round(cpuNs)} ns a packet, p50 / p99 ${p50} / ${p99} µs${wrong}`);
        } catch (error) {
          say(`${place}: ${error.stderr || error.message}`);
          process.exitCode = 1;
        }
      }
    }
  }
  return [...readings.values()];
}

/** How evenly the shards of a target shared the sending; null where there is one. */
function split(target, load, readings) {
  if (!(readings[0]?.sentByShard?.length > 1)) return null;
  const shares = readings.map(({ sentByShard }) => {
    const all = sentByShard.reduce((sum, count) => sum + count, 0);
    return sentByShard.map((count) => `${((100 * count) / all).toFixed(1)} %`).join(' + ');
  });
  return `${target.name}, ${load}, sent by its shards: ${shares.join('; ')}`;
}

async function main() {
  const options = readOptions();
  if (options.help) return process.stdout.write(USAGE);
  const { loads, rounds, seconds, warmup, json } = options;
  const { rows, targets } = await plan(options);
  const machine = { cpu: cpus()[0].model, cpus: cpus().length, kernel: release() };
  const readings = await measureAll({ ...options, targets });
  const middle = readings.map((of) => byLoad(loads, (load) => medians(of[load])));

  const setting = `${machine.cpu}, ${machine.cpus} cpus, Linux ${machine.kernel}; medians of ${rounds} × ${seconds} s`;
  const whats = targets.map(({ name, what }) => `${name}: ${what}`);
  const splits = targets.flatMap((target, index) => loads.map((load) => split(target, load, readings[index][load])));
  const lines = [setting, ...whats, '', table(rows(loads, middle, targets)), ...splits.filter(Boolean)];
  if (json !== '-') console.log(lines.join('\n'));
  if (json === undefined) return;

  const goalsOf = (load) => judged(load, middle.map((of) => of[load]), targets[1]);
  const goals = rows === goalRows ? byLoad(loads, goalsOf) : undefined;
  const told = targets.map(({ name, what }, index) => ({ name, what, medians: middle[index], readings: readings[index] }));
  const report = `${JSON.stringify({ machine, rounds, seconds, warmup, targets: told, goals }, null, 2)}\n`;
  if (json === '-') process.stdout.write(report);
  else await writeFile(json, report);
}

try {
  await main();
} catch (error) {
  say(error instanceof Usage ? `${error.message}\n\n${USAGE}` : String(error.stack));
  process.exitCode = error instanceof Usage ? 2 : 1;
}
