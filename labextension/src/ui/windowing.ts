/** Which rows of a list of rows of one height are to be seen. */

/** From `first` up to, but without, `end`; a few more on both sides, so that scrolling shows no gaps. */
export function visibleRange(
  scrollTop: number,
  height: number,
  rowHeight: number,
  rows: number,
  overscan = 8,
): { first: number; end: number } {
  const first = Math.max(Math.floor(scrollTop / rowHeight) - overscan, 0);
  const end = Math.min(Math.ceil((scrollTop + height) / rowHeight) + overscan, rows);
  return { first: Math.min(first, end), end };
}

/** Where to scroll so that row `index` is seen whole, from where it is now. */
export function scrollTopFor(
  index: number,
  scrollTop: number,
  height: number,
  rowHeight: number,
): number {
  const top = index * rowHeight;
  if (top < scrollTop) {
    return top;
  }
  return top + rowHeight > scrollTop + height ? top + rowHeight - height : scrollTop;
}
