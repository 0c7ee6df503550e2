// Medians over the rounds, what the goals make of them, and the table. Called by run.mjs; measures nothing.

/** The six loads, and by how much the goals want our CPU and our p99 below mediasoup's. */
export const LOADS = {
  pair: { title: '1 publisher → 1', cpu: 2.2, p99: 1 },
  'one-to-50': { title: '1 publisher → 50', cpu: 4, p99: 4 },
  'one-to-100': { title: '1 publisher → 100', cpu: 4, p99: 4 },
  channels: { title: '10 channels × 4 peers', cpu: 4, p99: 1 },
  'opus-100': { title: '1 Opus → 100', cpu: 2.4, p99: 2 },
  'opus-20': { title: '20 peers, Opus only', cpu: 3.5, p99: 1 },
};
const FLOOR_GOAL = 1.2;

/** A run that lost more than this says nothing about what a delivered packet costs. */
const LOSS_MAX = 0.01;

function median(values) {
  const sorted = values.filter((value) => value !== undefined).sort((a, b) => a - b);
  if (sorted.length === 0) return undefined;
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

/** Of each figure by itself. */
export function medians(readings) {
  const numbers = ([, value]) => typeof value === 'number';
  const names = new Set(readings.flatMap((reading) => Object.entries(reading).filter(numbers).map(([name]) => name)));
  return Object.fromEntries([...names].map((name) => [name, median(readings.map((reading) => reading[name]))]));
}

const whole = (value) => (value === undefined ? '–' : Math.round(value).toLocaleString('en'));
const delays = (of) => (of?.p99 ? `${whole(of.p50)} / ${whole(of.p99)}` : '–');
const times = (value) => (Number.isFinite(value) ? `${value.toFixed(2)} ×` : '–');
const percent = (value) => (value === undefined ? '–' : `${(value * 100).toFixed(2)} %`);
const ratio = (above, below) => (above && below ? above / below : undefined);

/**
 * Ours, theirs and the floor, in that order. With a loss beyond the bound no goal holds; figures that were not measured
 * in this run (`recorded`) give a ratio and no verdict.
 */
export function judged(load, [ours, theirs, floor], { recorded = false } = {}) {
  const { cpu, p99 } = LOADS[load];
  const wanted = [
    { name: 'cpu', ratio: ratio(theirs?.cpuNs, ours?.cpuNs), goal: cpu },
    { name: 'p99', ratio: ratio(theirs?.p99, ours?.p99), goal: p99 },
    { name: 'floor', ratio: ratio(ours?.cpuNs, floor?.cpuNs), goal: FLOOR_GOAL },
  ];
  const sound = ours !== undefined && ours.loss <= LOSS_MAX;
  return wanted.map((one) => {
    const reached = one.name === 'floor' ? one.ratio <= one.goal : one.ratio >= one.goal;
    const open = one.ratio === undefined || (recorded && one.name !== 'floor');
    return { ...one, holds: open ? null : sound && reached };
  });
}

const verdict = ({ ratio: value, goal, holds }) => {
  if (value === undefined) return '–';
  return `${times(value)} (${goal})${holds === null ? '' : holds ? ' holds' : ' fails'}`;
};

/** Against mediasoup and the floor. */
export function goalRows(loads, [ours, theirs, floor], [, target]) {
  const { name } = target;
  const head = ['load', 'ours ns', `${name} ns`, 'floor ns', 'ours p50 / p99 µs', `${name} p50 / p99 µs`, 'our loss'];
  const rows = loads.map((load) => {
    const all = [ours[load], theirs[load], floor[load]];
    const costs = all.map((one) => whole(one?.cpuNs));
    const verdicts = judged(load, all, target).map(verdict);
    return [LOADS[load].title, ...costs, delays(all[0]), delays(all[1]), percent(all[0]?.loss), ...verdicts];
  });
  return [[...head, 'CPU theirs/ours (goal)', 'p99 theirs/ours (goal)', 'CPU ours/floor (goal)'], ...rows];
}

/** Two servers side by side. */
export function pairRows(loads, [a, b]) {
  const head = ['load', 'A ns', 'B ns', 'CPU B/A', 'A p50 / p99 µs', 'B p50 / p99 µs', 'p99 B/A', 'A loss', 'B loss'];
  const rows = loads.map((load) => {
    const [one, other] = [a[load], b[load]];
    const cost = [whole(one?.cpuNs), whole(other?.cpuNs), times(ratio(other?.cpuNs, one?.cpuNs))];
    const delay = [delays(one), delays(other), times(ratio(other?.p99, one?.p99))];
    return [LOADS[load].title, ...cost, ...delay, percent(one?.loss), percent(other?.loss)];
  });
  return [head, ...rows];
}

/** The first column to the left, the others to the right. */
export function table(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const cell = (text, column) => (column === 0 ? text.padEnd(widths[column]) : text.padStart(widths[column]));
  return rows.map((row) => row.map(cell).join('  ')).join('\n');
}
