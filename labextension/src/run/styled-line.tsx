import React from 'react';
import type { Line, Style } from './ansi';

/** The text of a line in its colours; what is searched for is marked. */
export function StyledLine({ line, search }: { line: Line; search: string }): JSX.Element {
  const pieces: React.ReactNode[] = [];
  const spans = line.spans ?? [];
  let from = 0;
  let style: Style | null = null;
  for (const span of [...spans, { at: line.text.length, style: null }]) {
    if (span.at > from) {
      pieces.push(piece(line.text.slice(from, span.at), style, search, from));
    }
    from = span.at;
    style = span.style;
  }
  return <>{pieces}</>;
}

function piece(text: string, style: Style | null, search: string, key: number): React.ReactNode {
  const marked = search ? mark(text, search) : text;
  if (!style) {
    return <React.Fragment key={key}>{marked}</React.Fragment>;
  }
  const { css, names } = looks(style);
  return (
    <span key={key} className={names} style={css}>
      {marked}
    </span>
  );
}

const NAMES = ['black', 'red', 'green', 'yellow', 'blue', 'magenta', 'cyan', 'white'];

/** Bright colours are shown as the others are: those of run.css can be read on both themes. */
function looks(style: Style): { css: React.CSSProperties; names: string } {
  const css: React.CSSProperties = {};
  const names: string[] = [];
  let { color, background } = style;
  if (style.inverse) {
    [color, background] = [background, color];
    if (color === null) {
      css.color = 'var(--jp-layout-color0)';
    }
    if (background === null) {
      css.background = 'var(--jp-ui-font-color1)';
    }
  }
  if (typeof color === 'number') {
    names.push(`jp-skylift-ansi-fg-${NAMES[color % 8]}`);
  } else if (color) {
    css.color = color;
  }
  if (typeof background === 'number') {
    names.push(`jp-skylift-ansi-bg-${NAMES[background % 8]}`);
  } else if (background) {
    css.background = background;
  }
  if (style.bold) {
    css.fontWeight = 'bold';
  }
  if (style.dim) {
    css.opacity = 0.7;
  }
  if (style.italic) {
    css.fontStyle = 'italic';
  }
  const line = [style.underline && 'underline', style.strike && 'line-through'].filter(Boolean);
  if (line.length) {
    css.textDecoration = line.join(' ');
  }
  return { css, names: names.join(' ') };
}

function mark(text: string, search: string): React.ReactNode {
  const parts: React.ReactNode[] = [];
  const lower = text.toLowerCase();
  const needle = search.toLowerCase();
  let from = 0;
  for (
    let at = lower.indexOf(needle);
    at >= 0 && parts.length < 200;
    at = lower.indexOf(needle, from)
  ) {
    parts.push(text.slice(from, at), <mark key={at}>{text.slice(at, at + needle.length)}</mark>);
    from = at + needle.length;
  }
  return parts.length ? [...parts, text.slice(from)] : text;
}
