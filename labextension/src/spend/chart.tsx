import React from 'react';
import { dollars } from '../ui/formats';
import type { Day } from './sums';
import { dayText } from './sums';

const HEIGHT = 48;
const BAR = 8;
const GAP = 2;

/** Bars by day: what was paid for work, and on top of it for waiting. A table with the same figures follows it. */
export function DayChart({ days }: { days: Day[] }): JSX.Element {
  const most = Math.max(...days.map((day) => day.cost), 0);
  const width = days.length * (BAR + GAP) - GAP;
  const height = (cost: number) => (most > 0 ? (cost / most) * HEIGHT : 0);
  const spent = days.reduce((sum, day) => sum + day.cost, 0);
  return (
    <figure className="jp-skylift-days">
      <svg
        role="img"
        aria-label={`Spend by day, ${days.length} days: ${dollars(spent)}, at most ${dollars(most)} a day`}
        viewBox={`0 0 ${width} ${HEIGHT + 1}`}
        preserveAspectRatio="none"
      >
        {days.map((day, index) => {
          const x = index * (BAR + GAP);
          const whole = height(day.cost);
          const idle = height(Math.min(day.idle_cost, day.cost));
          return (
            <g key={day.day} data-day={day.day}>
              <title>{`${dayText(day.day)}: ${dollars(day.cost)}, of this idle ${dollars(day.idle_cost)}`}</title>
              {/* The whole height, so that it can be pointed at. */}
              <rect className="jp-skylift-days-place" x={x} y={0} width={BAR} height={HEIGHT + 1} />
              <rect
                className="jp-skylift-days-cost"
                x={x}
                y={HEIGHT - whole}
                width={BAR}
                height={whole}
              />
              <rect
                className="jp-skylift-days-idle"
                x={x}
                y={HEIGHT - whole}
                width={BAR}
                height={idle}
              />
              <rect className="jp-skylift-days-base" x={x} y={HEIGHT} width={BAR} height={1} />
            </g>
          );
        })}
      </svg>
      <figcaption>
        <span>{days.length > 0 && dayText(days[0].day)}</span>
        <span>{most > 0 ? `most on a day ${dollars(most)}` : ''}</span>
        <span>today</span>
      </figcaption>
    </figure>
  );
}
