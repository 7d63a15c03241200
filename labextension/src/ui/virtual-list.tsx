import React, { useCallback, useEffect, useId, useLayoutEffect, useRef, useState } from 'react';
import { scrollTopFor, visibleRange } from './windowing';

export interface IVirtualListProps {
  /** How many rows there are. */
  count: number;
  /** Pixels of each. */
  rowHeight: number;
  /** For screen readers. */
  label: string;
  className?: string;
  /** What is in row `index`. */
  row(index: number): React.ReactNode;
  /** Tells rows apart when others come before them. */
  rowKey(index: number): string;
  /** The row that the keyboard is at; -1 for none. */
  active: number;
  setActive(index: number): void;
  /** Enter, Space or a click. */
  open(index: number): void;
  /** Called when the last rows are to be seen: there may be more. */
  nearEnd?(): void;
  /** Called with the rows that are in the page now. */
  seen?(first: number, end: number): void;
  /** Attributes of a row: `data-…`, `title`, classes. */
  rowProps?(index: number): React.HTMLAttributes<HTMLDivElement> & Record<`data-${string}`, string>;
}

/** A list box of which only the rows that are to be seen are in the page. */
export function VirtualList(props: IVirtualListProps): JSX.Element {
  const { count, rowHeight, active, setActive, open, nearEnd, seen } = props;
  const node = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ scrollTop: 0, height: 0 });
  const id = useId();

  const look = useCallback(() => {
    const list = node.current;
    if (list) {
      const { scrollTop, clientHeight: height } = list;
      setView((known) =>
        known.scrollTop === scrollTop && known.height === height ? known : { scrollTop, height },
      );
    }
  }, []);

  useLayoutEffect(() => {
    look();
    const observer = new ResizeObserver(look);
    observer.observe(node.current!);
    return () => observer.disconnect();
  }, [look]);

  const { first, end } = visibleRange(view.scrollTop, view.height, rowHeight, count);
  const atEnd = view.height > 0 && end >= count;
  useEffect(() => {
    if (atEnd) {
      nearEnd?.();
    }
  }, [atEnd, count, nearEnd]);

  useEffect(() => seen?.(first, end), [first, end, seen]);

  const moveTo = (index: number) => {
    const list = node.current!;
    const target = Math.min(Math.max(index, 0), count - 1);
    list.scrollTop = scrollTopFor(target, list.scrollTop, list.clientHeight, rowHeight);
    look();
    setActive(target);
  };

  const keyDown = (event: React.KeyboardEvent) => {
    const page = Math.max(Math.floor(view.height / rowHeight) - 1, 1);
    const steps: Record<string, number> = {
      ArrowDown: 1,
      ArrowUp: -1,
      PageDown: page,
      PageUp: -page,
    };
    if (count === 0 || event.altKey || event.ctrlKey || event.metaKey) {
      return;
    }
    if (event.key in steps) {
      moveTo(active < 0 ? 0 : active + steps[event.key]);
    } else if (event.key === 'Home') {
      moveTo(0);
    } else if (event.key === 'End') {
      moveTo(count - 1);
    } else if ((event.key === 'Enter' || event.key === ' ') && active >= 0) {
      open(active);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  };

  const rows = [];
  for (let index = first; index < end; index++) {
    const { className = '', ...more } = props.rowProps?.(index) ?? {};
    rows.push(
      <div
        {...more}
        key={props.rowKey(index)}
        id={`${id}-${index}`}
        role="option"
        aria-selected={index === active}
        aria-posinset={index + 1}
        aria-setsize={count}
        className={`jp-skylift-list-row ${className} ${index === active ? 'jp-mod-active' : ''}`}
        style={{
          position: 'absolute',
          top: index * rowHeight,
          left: 0,
          right: 0,
          height: rowHeight,
        }}
        onMouseDown={() => setActive(index)}
        onClick={() => open(index)}
      >
        {props.row(index)}
      </div>,
    );
  }
  const activeShown = active >= first && active < end;
  return (
    <div
      ref={node}
      role="listbox"
      aria-label={props.label}
      aria-activedescendant={activeShown ? `${id}-${active}` : undefined}
      tabIndex={0}
      className={`jp-skylift-list ${props.className ?? ''}`}
      onScroll={look}
      onKeyDown={keyDown}
      onFocus={() => {
        if (active < 0 && count > 0) {
          setActive(first);
        }
      }}
    >
      <div role="presentation" style={{ position: 'relative', height: count * rowHeight }}>
        {rows}
      </div>
    </div>
  );
}
