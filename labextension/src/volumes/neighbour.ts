/** What is selected when a line of the tree goes. */
import { parentOf } from './names';
import { keyOf } from './tree-rows';
import type { Row } from './tree-rows';

/** Its key: the next one beside it, or the one before, or its folder. */
export function neighbour(rows: readonly Row[], row: Row): string {
  const beside = rows.filter(
    (each) =>
      each.level === row.level &&
      each.entry &&
      parentOf(each.place.path) === parentOf(row.place.path) &&
      each.place.volume === row.place.volume &&
      each.place.version === row.place.version,
  );
  const at = beside.findIndex((each) => each.key === row.key);
  const next = beside[at + 1] ?? beside[at - 1];
  return next?.key ?? keyOf({ ...row.place, path: parentOf(row.place.path) });
}
