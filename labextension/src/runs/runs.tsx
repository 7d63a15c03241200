import React, { useEffect, useState } from 'react';
import type { CallRow } from '../gateway/types';
import type { ISectionProps } from '../sidebar/section';

/** What runs now. */
export function Runs({ gateway, openRun }: ISectionProps): JSX.Element {
  const [rows, setRows] = useState<ReadonlyMap<string, CallRow>>(new Map());
  useEffect(() => {
    const watch = gateway.live.watch(
      { topic: 'calls' },
      {
        frame: (frame) => {
          if (frame.type === 'calls') {
            setRows(
              (known) =>
                new Map([...known, ...frame.calls.map((row) => [row.call_id, row] as const)]),
            );
          }
        },
      },
    );
    return () => watch.dispose();
  }, [gateway]);
  return (
    <ul>
      {[...rows.values()].map((row) => (
        <li key={row.call_id}>
          <button type="button" onClick={() => openRun(row.call_id)}>
            {row.summary || row.function} ({row.state})
          </button>
        </li>
      ))}
    </ul>
  );
}
