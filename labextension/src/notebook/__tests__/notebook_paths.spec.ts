import { pathsOf } from '../notebook_paths';

it.each([
  ['/srv/work/a/b.ipynb', '/srv/work', ['a/b.ipynb']],
  ['/srv/work/b.ipynb', '/srv/work/', ['b.ipynb']],
  ['/srv/working/b.ipynb', '/srv/work', []],
  ['/b.ipynb', '/', ['b.ipynb']],
  ['/home/me/work/b.ipynb', '~/work', ['b.ipynb']],
  ['/home/me/other/b.ipynb', '~/work', []],
  ['/root/a/b.ipynb', '~', ['root/a/b.ipynb', 'a/b.ipynb', 'b.ipynb']],
  ['C:\\work\\b.ipynb', 'C:\\work', ['b.ipynb']],
  ['a/b.ipynb', '~', ['a/b.ipynb']],
  ['', '~', []],
])('%s on a server at %s', (absolute, root, expected) => {
  expect(pathsOf(absolute, root)).toEqual(expected);
});
