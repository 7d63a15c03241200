/** A table of a file. Only the rows in sight are in the page. */
import * as React from 'react';
import { useEffect, useMemo, useRef, useState } from 'react';
import { isNumeric } from './csv';
import type { Table } from './csv';
import { inSight, topsOf } from './windowing';

const LINE = 24;
const BEYOND = 20;
/** More columns are only counted. */
const MOST_COLUMNS = 200;

export function CsvTable({ table }: { table: Table }): React.ReactElement {
  const box = useRef<HTMLDivElement>(null);
  const [scroll, setScroll] = useState({ top: 0, height: 600 });
  const columns = Math.min(MOST_COLUMNS, table.header.length);
  const numeric = useMemo(() => {
    const some = table.rows.slice(0, 200);
    return Array.from({ length: columns }, (_, column) => isNumeric(some, column));
  }, [table, columns]);
  const widths = useMemo(
    () => Array.from({ length: columns }, (_, column) => widthOf(table, column)),
    [table, columns],
  );
  const tops = useMemo(() => topsOf(table.rows.length, () => LINE), [table]);

  useEffect(() => {
    const scroller = box.current?.parentElement;
    if (!scroller) {
      return;
    }
    const moved = () => setScroll({ top: scroller.scrollTop, height: scroller.clientHeight });
    const observer = new ResizeObserver(moved);
    observer.observe(scroller);
    scroller.addEventListener('scroll', moved, { passive: true });
    moved();
    return () => {
      observer.disconnect();
      scroller.removeEventListener('scroll', moved);
    };
  }, []);

  const [first, last] = table.rows.length
    ? inSight(tops, scroll.top, scroll.height, BEYOND)
    : [0, 0];
  const below = tops[table.rows.length] - tops[last];
  return (
    <div ref={box} className="jp-skylift-table-box">
      <table className="jp-skylift-table" aria-rowcount={table.rows.length + 1}>
        <colgroup>
          <col style={{ width: 56 }} />
          {widths.map((width, column) => (
            <col key={column} style={{ width }} />
          ))}
        </colgroup>
        <thead>
          <tr aria-rowindex={1}>
            <th scope="col" className="jp-skylift-table-number">
              <span className="jp-skylift-hidden">Row</span>
            </th>
            {table.header.slice(0, columns).map((name, column) => (
              <th key={column} scope="col" data-numeric={numeric[column] || undefined} title={name}>
                {name || <span className="jp-skylift-hidden">Column {column + 1}</span>}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {first > 0 && (
            <tr aria-hidden="true">
              <td
                colSpan={columns + 1}
                style={{ height: tops[first] }}
                className="jp-skylift-table-space"
              />
            </tr>
          )}
          {table.rows.slice(first, last).map((row, at) => (
            <tr key={first + at} aria-rowindex={first + at + 2}>
              <th scope="row" className="jp-skylift-table-number">
                {first + at + 1}
              </th>
              {widths.map((_, column) => (
                <td
                  key={column}
                  data-numeric={numeric[column] || undefined}
                  title={(row[column] ?? '').length > 24 ? row[column] : undefined}
                >
                  {row[column] ?? ''}
                </td>
              ))}
            </tr>
          ))}
          {below > 0 && (
            <tr aria-hidden="true">
              <td
                colSpan={columns + 1}
                style={{ height: below }}
                className="jp-skylift-table-space"
              />
            </tr>
          )}
        </tbody>
      </table>
      {table.header.length > columns && (
        <p className="jp-skylift-preview-note">
          and {(table.header.length - columns).toLocaleString('en')} more columns
        </p>
      )}
      {table.more && (
        <p className="jp-skylift-preview-note">
          These are the first {table.rows.length.toLocaleString('en')} rows. Download the file for
          all of them.
        </p>
      )}
    </div>
  );
}

function widthOf(table: Table, column: number): number {
  let letters = table.header[column].length;
  for (const row of table.rows.slice(0, 100)) {
    letters = Math.max(letters, (row[column] ?? '').length);
  }
  return Math.max(56, Math.min(320, 18 + letters * 7.4));
}
