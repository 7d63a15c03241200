import React, { useCallback, useEffect, useLayoutEffect, useRef, useState } from 'react';
import { count } from '../ui/formats';
import { useChanges } from '../ui/hooks';
import { visibleRange } from '../ui/windowing';
import type { LogLine } from './log-buffer';
import type { OutputFeed } from './output-feed';
import type { Found } from './search';
import { StyledLine } from './styled-line';
import { MOST_MATCHES, nextMatch, searchSlice } from './search';

/** Pixels of a line. */
const LINE = 18;
/** Browsers make no taller boxes than some ten million pixels; of longer logs the last lines are to be seen. */
const MOST_LINES = 500_000;

/** The log: streamed, with colours; follows its end unless it is scrolled away from. */
export function LogView({ feed, name }: { feed: OutputFeed; name: string }): JSX.Element {
  useChanges(feed.changed);
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ scrollTop: 0, height: 0 });
  const place = useRef(0);
  const [follow, setFollow] = useState(true);
  const [search, setSearch] = useState('');
  const [found, setFound] = useState<Found>({ lines: [], searched: 0 });
  const [at, setAt] = useState(-1);
  const [saving, setSaving] = useState(false);
  const [problem, setProblem] = useState('');
  const input = useRef<HTMLInputElement>(null);
  const { log } = feed;
  const { length, version } = log;
  const base = Math.max(length - MOST_LINES, 0);
  const lines = length - base;

  const look = useCallback(() => {
    const { scrollTop, clientHeight: height } = box.current!;
    if (height === 0) {
      return; // another tab is to be seen
    }
    setView((known) =>
      known.scrollTop === scrollTop && known.height === height ? known : { scrollTop, height },
    );
  }, []);

  useLayoutEffect(() => {
    look();
    const node = box.current!;
    let shown = node.clientHeight > 0;
    const observer = new ResizeObserver(() => {
      if (node.clientHeight > 0 && !shown) {
        // A browser forgets the place of what is hidden.
        node.scrollTop = place.current;
      }
      shown = node.clientHeight > 0;
      look();
    });
    observer.observe(node);
    return () => observer.disconnect();
  }, [look]);

  useLayoutEffect(() => {
    if (follow) {
      box.current!.scrollTop = lines * LINE;
      look();
    }
  }, [follow, lines, version, view.height, look]);

  // A new search begins anew; what comes later is looked through as it comes.
  useEffect(() => {
    setFound({ lines: [], searched: 0 });
    setAt(-1);
  }, [search]);
  useEffect(() => {
    if (!search || found.searched >= length || found.lines.length >= MOST_MATCHES) {
      return;
    }
    const timer = window.setTimeout(() => setFound(searchSlice(log, search, found)), 0);
    return () => window.clearTimeout(timer);
  }, [log, search, found, length, version]);

  const { first, end } = visibleRange(view.scrollTop, view.height, LINE, lines, 20);
  useEffect(() => {
    for (let index = first; index < end; index++) {
      if (log.missing(base + index)) {
        void feed.refill(base + index);
      }
    }
  }, [feed, log, base, first, end, version]);

  const goTo = (line: number) => {
    if (line < 0) {
      return;
    }
    setFollow(false);
    setAt(line);
    box.current!.scrollTop = Math.max((line - base) * LINE - view.height / 2, 0);
    look();
  };

  const scrolled = () => {
    const { scrollTop, scrollHeight, clientHeight } = box.current!;
    if (clientHeight === 0) {
      return;
    }
    place.current = scrollTop;
    const atEnd = scrollTop + clientHeight >= scrollHeight - LINE;
    // The user scrolled away, or back to the end.
    if (follow !== atEnd && (atEnd || scrollTop < view.scrollTop)) {
      setFollow(atEnd);
    }
    look();
  };

  const download = async () => {
    setSaving(true);
    setProblem('');
    try {
      const url = URL.createObjectURL(await feed.text());
      const link = document.createElement('a');
      link.href = url;
      link.download = `${name}.log`;
      link.click();
      window.setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      setProblem(`The log could not be downloaded: ${(error as Error).message}`);
    } finally {
      setSaving(false);
    }
  };

  const rows = [];
  for (let index = first; index < end; index++) {
    const number = base + index;
    rows.push(
      <div
        key={number}
        className={`jp-skylift-log-line ${number === at ? 'jp-mod-found' : ''}`}
        style={{ top: index * LINE }}
      >
        <Row line={log.line(number)} search={search} />
      </div>,
    );
  }
  return (
    <div
      className="jp-skylift-log"
      onKeyDown={(event) => {
        if ((event.ctrlKey || event.metaKey) && event.key === 'f') {
          event.preventDefault();
          event.stopPropagation();
          input.current?.focus();
        }
      }}
    >
      <div className="jp-skylift-log-bar">
        <input
          ref={input}
          type="search"
          className="jp-skylift-input"
          placeholder="Search the log"
          aria-label="Search the log"
          value={search}
          onChange={(event) => setSearch(event.target.value)}
          onKeyDown={(event) => {
            if (event.key === 'Enter') {
              event.preventDefault();
              goTo(nextMatch(found.lines, at, event.shiftKey ? -1 : 1));
            }
          }}
        />
        {search && (
          <span className="jp-skylift-log-found" role="status">
            {foundWords(found, at, log.kept < length)}
          </span>
        )}
        {search && (
          <>
            <button
              type="button"
              className="jp-skylift-button"
              disabled={!found.lines.length}
              onClick={() => goTo(nextMatch(found.lines, at, -1))}
            >
              Previous
            </button>
            <button
              type="button"
              className="jp-skylift-button"
              disabled={!found.lines.length}
              onClick={() => goTo(nextMatch(found.lines, at, 1))}
            >
              Next
            </button>
          </>
        )}
        <span className="jp-skylift-log-count">
          {count(length)} {length === 1 ? 'line' : 'lines'}
        </span>
        <label className="jp-skylift-check">
          <input
            type="checkbox"
            checked={follow}
            onChange={(event) => setFollow(event.target.checked)}
          />
          Follow
        </label>
        <button
          type="button"
          className="jp-skylift-button"
          disabled={saving}
          onClick={() => void download()}
        >
          {saving ? 'Downloading…' : 'Download'}
        </button>
      </div>
      {(problem || feed.problem) && (
        <p className="jp-skylift-problem" role="alert">
          {problem || feed.problem}
        </p>
      )}
      {(base > 0 || log.fromSeq > 0) && (
        <p className="jp-skylift-log-earlier">
          {base > 0
            ? `${count(base)} earlier lines are not shown. Download has all of it.`
            : 'The output is long: only its last part is shown. Download has all of it.'}
        </p>
      )}
      <div
        ref={box}
        className="jp-skylift-log-box"
        role="region"
        aria-label="Log"
        tabIndex={0}
        onScroll={scrolled}
      >
        <div className="jp-skylift-log-lines" style={{ height: lines * LINE }}>
          {rows}
        </div>
        {length === 0 && (
          <p className="jp-skylift-empty">
            {feed.over ? 'It has printed nothing.' : 'Nothing printed yet.'}
          </p>
        )}
      </div>
    </div>
  );
}

function foundWords(found: Found, at: number, partial: boolean): string {
  const { length } = found.lines;
  const total = `${count(length)}${length >= MOST_MATCHES ? ' or more' : ''}`;
  const where = at < 0 ? '' : `${count(found.lines.indexOf(at) + 1)} of `;
  const words = length ? `${where}${total}` : 'not found';
  return partial ? `${words} (in the lines loaded)` : words;
}

const Row = React.memo(function Row(props: {
  line: LogLine | undefined;
  search: string;
}): JSX.Element {
  const { line, search } = props;
  return line ? (
    <span data-source={line.source}>
      <StyledLine line={line} search={search} />
    </span>
  ) : (
    <span className="jp-skylift-log-loading">…</span>
  );
});
