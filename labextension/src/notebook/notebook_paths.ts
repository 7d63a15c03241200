/** Where a notebook is: the gateway has its absolute path, the Jupyter server knows paths below its root. */

/**
 * The paths that an absolute one may have on a server with this root, likeliest first.
 *
 * The root may begin with `~`, and the page does not know what that stands for; then what follows it decides, and where
 * nothing follows, every part of the path is tried.
 */
export function pathsOf(absolute: string, root: string): string[] {
  const path = absolute.replace(/\\/g, '/');
  const base = root.replace(/\\/g, '/').replace(/\/+$/, '');
  if (!path.startsWith('/') && !/^[A-Za-z]:\//.test(path)) {
    return path ? [path] : [];
  }
  if (base && !base.startsWith('~')) {
    return path.startsWith(`${base}/`) ? [path.slice(base.length + 1)] : [];
  }
  if (base.startsWith('~/')) {
    const inside = `${base.slice(1)}/`;
    const found = path.indexOf(inside);
    return found < 0 ? [] : [path.slice(found + inside.length)];
  }
  const parts = path.split('/').filter(Boolean);
  return parts.map((_, index) => parts.slice(index).join('/'));
}
