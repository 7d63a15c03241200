/** Sums of what containers cost. Days are the gateway's: UTC, `"2026-02-03"`. */
import type { Spend, SpendRow } from '../gateway/types';

/** A day in the chart. */
export interface Day {
  day: string;
  cost: number;
  idle_cost: number;
}

const NOTHING: Omit<SpendRow, 'key'> = {
  seconds: 0,
  cost: 0,
  idle_seconds: 0,
  idle_cost: 0,
  calls: 0,
};

/** The day of a Unix time in milliseconds. */
export function dayOf(time: number): string {
  return new Date(time).toISOString().slice(0, 10);
}

/** The row of one day. */
export function ofDay(spend: Spend, day: string): SpendRow {
  return spend.rows.find((row) => row.key === day) ?? { key: day, ...NOTHING };
}

/** The sum of a month, `"2026-02"`, of a spend by day. */
export function ofMonth(spend: Spend, month: string): SpendRow {
  return total(
    month,
    spend.rows.filter((row) => row.key.startsWith(`${month}-`)),
  );
}

/** The sum of rows. */
export function total(key: string, rows: readonly SpendRow[]): SpendRow {
  const add = (sum: SpendRow, row: SpendRow): SpendRow => ({
    key,
    seconds: sum.seconds + row.seconds,
    cost: sum.cost + row.cost,
    idle_seconds: sum.idle_seconds + row.idle_seconds,
    idle_cost: sum.idle_cost + row.idle_cost,
    calls: sum.calls + row.calls,
  });
  return rows.reduce(add, { key, ...NOTHING });
}

/** `count` days up to `until`, oldest first, also those on which nothing ran. */
export function days(spend: Spend, until: string, count: number): Day[] {
  const costs = new Map(spend.rows.map((row) => [row.key, row]));
  const last = Date.parse(`${until}T00:00:00Z`);
  return Array.from({ length: count }, (_, index) => {
    const day = dayOf(last - (count - 1 - index) * 86_400_000);
    const row = costs.get(day);
    return { day, cost: row?.cost ?? 0, idle_cost: row?.idle_cost ?? 0 };
  });
}

/** Whether things ran, or could run, and no price is known for any of it. */
export function withoutPrices(spend: Spend, prices: readonly number[]): boolean {
  return (
    spend.total.cost === 0 &&
    prices.every((price) => price === 0) &&
    (spend.total.seconds > 0 || prices.length > 0)
  );
}

/** `"Feb 3"`. */
export function dayText(day: string): string {
  return new Date(`${day}T00:00:00Z`).toLocaleDateString('en-US', {
    month: 'short',
    day: 'numeric',
    timeZone: 'UTC',
  });
}

/** How many days of this month there have been, today too. */
export function daysOfMonth(day: string): number {
  return Number.parseInt(day.slice(8), 10);
}
