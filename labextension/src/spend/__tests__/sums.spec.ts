import type { Spend, SpendRow } from '../../gateway/types';
import { dayOf, days, daysOfMonth, dayText, ofDay, ofMonth, withoutPrices } from '../sums';

function row(key: string, cost: number, idle = 0): SpendRow {
  return { key, seconds: cost * 100, cost, idle_seconds: idle * 100, idle_cost: idle, calls: 1 };
}

function spend(rows: SpendRow[], seconds = 0): Spend {
  const cost = rows.reduce((sum, each) => sum + each.cost, 0);
  return {
    by: 'day',
    since: '2026-02-01',
    until: '2026-03-02',
    rows,
    total: { key: '', seconds, cost, idle_seconds: 0, idle_cost: 0, calls: rows.length },
  };
}

const THREE = spend([row('2026-03-02', 3, 1), row('2026-03-01', 2), row('2026-02-28', 10)]);

it('days are UTC', () => {
  expect(dayOf(Date.parse('2026-03-01T23:59:59Z'))).toBe('2026-03-01');
  expect(dayText('2026-03-01')).toBe('Mar 1');
  expect(daysOfMonth('2026-03-09')).toBe(9);
});

it('a day on which nothing ran cost nothing', () => {
  expect(ofDay(THREE, '2026-03-02').cost).toBe(3);
  expect(ofDay(THREE, '2026-03-03')).toEqual({ ...row('2026-03-03', 0), calls: 0 });
});

it('a month is the sum of its days', () => {
  expect(ofMonth(THREE, '2026-03')).toMatchObject({
    key: '2026-03',
    cost: 5,
    idle_cost: 1,
    calls: 2,
    seconds: 500,
  });
  expect(ofMonth(THREE, '2026-04').cost).toBe(0);
});

it('the chart has every day, oldest first, over the end of a month', () => {
  expect(days(THREE, '2026-03-02', 4)).toEqual([
    { day: '2026-02-27', cost: 0, idle_cost: 0 },
    { day: '2026-02-28', cost: 10, idle_cost: 0 },
    { day: '2026-03-01', cost: 2, idle_cost: 0 },
    { day: '2026-03-02', cost: 3, idle_cost: 1 },
  ]);
});

it.each([
  ['something cost something', THREE, [0], false],
  ['a GPU has a price', spend([], 100), [0, 2], false],
  ['containers were up for nothing', spend([], 100), [], true],
  ['GPUs cost nothing', spend([]), [0], true],
  ['nothing ran and there is no GPU', spend([]), [], false],
])('prices are missing, or not: %s', (_, given, prices, expected) => {
  expect(withoutPrices(given, prices)).toBe(expected);
});
