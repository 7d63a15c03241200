import React from 'react';
import type { UsageSample } from '../gateway/types';
import { bytes, duration } from '../ui/formats';

const WIDTH = 320;
const HEIGHT = 96;

interface Series {
  title: string;
  values: (number | null)[];
  /** At the top, unless there is a greater value. */
  max: number;
  words(value: number): string;
}

/** What there is to draw of some samples. */
export function seriesOf(samples: readonly UsageSample[]): Series[] {
  const series: Series[] = [
    {
      title: 'CPU',
      values: samples.map((sample) => sample[1]),
      max: 1,
      words: (value) => `${value.toFixed(value < 1 ? 2 : 1)} cores`,
    },
    { title: 'Memory', values: samples.map((sample) => sample[2]), max: 0, words: bytes },
  ];
  if (samples.some((sample) => sample[3] !== null)) {
    series.unshift(
      {
        title: 'GPU',
        values: samples.map((sample) => sample[3]),
        max: 1,
        words: (value) => `${Math.round(value * 100)} %`,
      },
      { title: 'GPU memory', values: samples.map((sample) => sample[4]), max: 0, words: bytes },
    );
  }
  return series;
}

/** The path of a line over `times`; a gap where there is no value. */
export function linePath(
  times: readonly number[],
  values: readonly (number | null)[],
  max: number,
  width: number,
  height: number,
): string {
  const start = times[0];
  const span = times[times.length - 1] - start || 1;
  let path = '';
  let down = false;
  values.forEach((value, index) => {
    if (value === null) {
      down = false;
      return;
    }
    const x = ((times[index] - start) / span) * width;
    const y = height - 1 - (Math.min(value, max) / (max || 1)) * (height - 2);
    path += `${down ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`;
    down = true;
  });
  return path;
}

/** What the run used over its time. */
export function Charts({ samples }: { samples: readonly UsageSample[] }): JSX.Element {
  if (samples.length < 2) {
    return (
      <p className="jp-skylift-empty">No figures: they are taken once a second while it runs.</p>
    );
  }
  const times = samples.map((sample) => sample[0]);
  const span = duration(times[times.length - 1] - times[0]);
  return (
    <div className="jp-skylift-charts">
      {seriesOf(samples).map(({ title, values, max, words }) => {
        const known = values.filter((value): value is number => value !== null);
        const peak = Math.max(...known, 0);
        const top = Math.max(max, peak) || 1;
        const last = known[known.length - 1] ?? 0;
        return (
          <figure key={title} className="jp-skylift-chart">
            <figcaption>
              <span>{title}</span>
              <span>
                {words(last)} <span className="jp-skylift-chart-peak">peak {words(peak)}</span>
              </span>
            </figcaption>
            <svg
              viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
              preserveAspectRatio="none"
              role="img"
              aria-label={`${title} over ${span}: ${words(last)} at the end, ${words(peak)} at most`}
            >
              <path d={linePath(times, values, top, WIDTH, HEIGHT)} />
            </svg>
            <div className="jp-skylift-chart-axis" aria-hidden="true">
              <span>0</span>
              <span>{span}</span>
            </div>
          </figure>
        );
      })}
    </div>
  );
}
