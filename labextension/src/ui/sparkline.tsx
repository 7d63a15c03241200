import React from 'react';

/** The points of a line from 0 (bottom) to 1 (top), newest at the right; `room` is how many fit. */
export function sparklinePoints(
  values: readonly number[],
  width: number,
  height: number,
  room: number,
): string {
  const shown = values.slice(-room);
  const step = width / Math.max(room - 1, 1);
  const left = width - (shown.length - 1) * step;
  return shown
    .map((value, index) => {
      const y = (1 - Math.min(Math.max(value, 0), 1)) * (height - 2) + 1;
      return `${(left + index * step).toFixed(1)},${y.toFixed(1)}`;
    })
    .join(' ');
}

/** A small line of values from 0 to `max`. `label` says in words what it shows; "" leaves it to what is beside it. */
export const Sparkline = React.memo(function Sparkline(props: {
  values: readonly number[];
  label: string;
  /** The value at the top. */
  max?: number;
  width?: number;
  height?: number;
  /** How many values the width has room for. */
  room?: number;
}): JSX.Element {
  const { values, label, max = 1, width = 60, height = 16, room = 60 } = props;
  const accessible = label ? { role: 'img', 'aria-label': label } : { 'aria-hidden': true };
  return (
    <svg
      className="jp-skylift-sparkline"
      width={width}
      height={height}
      viewBox={`0 0 ${width} ${height}`}
      {...accessible}
    >
      {values.length > 1 && (
        <polyline
          points={sparklinePoints(
            max === 1 ? values : values.map((value) => value / max),
            width,
            height,
            room,
          )}
        />
      )}
    </svg>
  );
});
