import React, { useId, useState } from 'react';
import type { HostView, SpendBy, SpendRow } from '../gateway/types';
import type { ISectionProps } from '../sidebar/section';
import { dollars, duration } from '../ui/formats';
import { useList } from '../ui/hooks';
import { DayChart } from './chart';
import { useSpend, useToday } from './hooks';
import { days, daysOfMonth, dayText, ofDay, ofMonth, withoutPrices } from './sums';

/** Days of the chart: at least a whole month, so that the sum of the month is in it. */
const DAYS = 31;

const BY: [SpendBy, string][] = [
  ['notebook', 'Notebook'],
  ['function', 'Function'],
  ['gpu', 'GPU'],
  ['day', 'Day'],
];

/** The Spend section: today, this month, by day, and by what. */
export function SpendSection({ gateway }: ISectionProps): JSX.Element {
  const today = useToday();
  const byDay = useSpend(gateway, 'day', DAYS);
  const hosts = useList<HostView>(gateway, 'hosts');
  if (!byDay.spend) {
    return (
      <div className="jp-skylift-spend">
        {byDay.problem && (
          <p role="alert" className="jp-skylift-problem">
            {byDay.problem}
          </p>
        )}
      </div>
    );
  }
  const prices = (hosts.rows ?? []).flatMap((host) => host.gpus.map((gpu) => gpu.price));
  return (
    <div className="jp-skylift-spend">
      <dl className="jp-skylift-figures">
        <Figure name="Today" row={ofDay(byDay.spend, today)} id="today" />
        <Figure name="This month" row={ofMonth(byDay.spend, today.slice(0, 7))} id="month" />
      </dl>
      {withoutPrices(byDay.spend, prices) && (
        <p className="jp-skylift-hint" data-skylift-hint="prices">
          No prices are configured, so everything counts as free. They are US dollars an hour in the
          table <code>[prices]</code> of the gateway’s <code>config.toml</code>: a GPU by its model,
          as in <code>H100 = 2.50</code>, a core by <code>cpu</code>, a GiB by <code>memory</code>.
        </p>
      )}
      <DayChart days={days(byDay.spend, today, DAYS)} />
      <By gateway={gateway} today={today} />
    </div>
  );
}

function Figure({ name, row, id }: { name: string; row: SpendRow; id: string }): JSX.Element {
  return (
    <div data-skylift-figure={id}>
      <dt>{name}</dt>
      <dd>
        <span className="jp-skylift-figure">{dollars(row.cost)}</span>
        <span className="jp-skylift-row-facts">
          {row.idle_cost > 0 ? `of this idle ${dollars(row.idle_cost)}` : ''}
        </span>
      </dd>
    </div>
  );
}

function By({ gateway, today }: { gateway: ISectionProps['gateway']; today: string }): JSX.Element {
  const [by, setBy] = useState<SpendBy>('notebook');
  const [days, setDays] = useState<'today' | 'month' | 'days'>('month');
  const id = useId();
  const count = { today: 1, month: daysOfMonth(today), days: DAYS }[days];
  const { spend, problem } = useSpend(gateway, by, count);
  return (
    <section className="jp-skylift-by" aria-label="What it was spent on">
      <div className="jp-skylift-by-choice">
        <label htmlFor={`${id}-by`}>By</label>
        <select
          id={`${id}-by`}
          value={by}
          onChange={(event) => setBy(event.target.value as SpendBy)}
        >
          {BY.map(([value, name]) => (
            <option key={value} value={value}>
              {name.toLowerCase()}
            </option>
          ))}
        </select>
        <label htmlFor={`${id}-days`}>over</label>
        <select
          id={`${id}-days`}
          value={days}
          onChange={(event) => setDays(event.target.value as 'today' | 'month' | 'days')}
        >
          <option value="today">today</option>
          <option value="month">this month</option>
          <option value="days">{DAYS} days</option>
        </select>
      </div>
      {problem && (
        <p role="alert" className="jp-skylift-problem">
          {problem}
        </p>
      )}
      {spend && spend.rows.length === 0 && (
        <p className="jp-skylift-empty">Nothing ran in this time.</p>
      )}
      {spend && spend.rows.length > 0 && (
        <table className="jp-skylift-spend-table">
          <thead>
            <tr>
              <th scope="col">{BY.find(([value]) => value === spend.by)?.[1]}</th>
              <th scope="col">Up</th>
              <th scope="col">Cost</th>
              <th scope="col">Idle</th>
            </tr>
          </thead>
          <tbody>
            {spend.rows.map((row) => (
              <tr key={row.key} data-skylift-key={row.key}>
                <th
                  scope="row"
                  title={`${row.key}\n${row.calls} calls, up ${duration(row.seconds)}`}
                >
                  {keyText(spend.by, row.key)}
                </th>
                <td>{duration(row.seconds)}</td>
                <td>{dollars(row.cost)}</td>
                <td title={`${duration(row.idle_seconds)} without a call to run`}>
                  {dollars(row.idle_cost)}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}

function keyText(by: SpendBy, key: string): string {
  if (by === 'day') {
    return dayText(key);
  }
  if (by === 'notebook') {
    return key.split('/').pop() || 'no notebook';
  }
  return key || (by === 'gpu' ? 'cpu' : 'no name');
}
