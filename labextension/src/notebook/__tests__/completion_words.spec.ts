import type { HostView, SessionView } from '../../gateway/types';
import { complete } from '../completion_words';
import type { Known } from '../completion_words';

const HOST = {
  connected: true,
  cpus: 4,
  cpus_reserved: 0,
  gpus: [
    { model: 'L4', count: 2, in_use: 1, memory: 24, simulated: true, price: 0.8, holders: [] },
    {
      model: 'H100',
      count: 1,
      in_use: 1,
      memory: 80,
      simulated: false,
      price: 2.5,
      holders: ['session train (1)'],
    },
  ],
} as unknown as HostView;

const KNOWN: Known = {
  hosts: [HOST],
  sessions: [
    { name: 'train', notebook: '/home/me/work/a.ipynb', gpu: 'H100', state: 'idle' },
    { name: 'other', notebook: '/home/me/work/b.ipynb', gpu: 'H100', state: 'idle' },
  ] as unknown as SessionView[],
  volumes: ['data', 'models'],
  notebook: 'work/a.ipynb',
};

function at(line: string, known = KNOWN) {
  const offset = line.indexOf('|');
  const source = line.replace('|', '');
  const found = complete(source, offset, known);
  return (
    found && {
      replaces: source.slice(found.start, found.end),
      words: found.words.map((word) => word.text),
    }
  );
}

describe('completion in the %%gpu line', () => {
  it.each(['x = |', '%%gp|', '%%gpu|', '%%gpu H100\nx|', '# %%gpu |', '%gpu st|'])(
    'leaves %j alone',
    (line) => {
      expect(at(line)).toBeNull();
    },
  );

  it('offers what is there first', () => {
    expect(at('%%gpu |')!.words).toEqual([
      'H100',
      'L4',
      'any',
      'cpu',
      'B200',
      'H200',
      'A100-80GB',
      'A100-40GB',
      'L40S',
      'A10G',
      'T4',
    ]);
  });

  it('says what is free and what it costs', () => {
    const source = '%%gpu ';
    const words = complete(source, source.length, KNOWN)!.words;
    expect(words.slice(0, 5).map((word) => word.detail)).toEqual([
      'in use: session train (1) · $2.50/h',
      '1 of 2 free · $0.80/h · simulated',
      'Any GPU · 1 of 3 free · $0.80–2.50/h',
      '4 of 4 cores free',
      'not there now',
    ]);
  });

  it('offers all names where nothing is known', () => {
    const nothing = { hosts: null, sessions: null, volumes: null, notebook: '' };
    expect(at('%%gpu |', nothing)!.words[0]).toBe('B200');
    expect(at('%%gpu H100 --volume |', nothing)!.words).toEqual([]);
  });

  it.each([
    ['%%gpu h1|', 'h1', ['H100']],
    ['%%gpu H100,l|', 'l', ['L4', 'L40S']],
    ['%%gpu H100, |', '', ['L4']],
    ['%%gpu H100 --na|', '--na', ['--name']],
    ['%%gpu H100 |', '', ['--cpu']],
    ['%%gpu H100 --name |', '', ['train']],
    ['%%gpu H100 --name=t|', 't', ['train']],
    ['%%gpu H100 --volume |', '', ['data:/data']],
    ['%%gpu H100 --volume m|', 'm', ['models:/models']],
    ['%%gpu H100 --idle-policy s|', 's', ['sleep', 'sleep-or-stop', 'stop']],
    ['%%gpu H100 --timeout |', '', ['5m', '30m', '2h']],
    ['%%gpu --name train |', '', ['H100']],
    ['%%time\n%%gpu h1|\nx', 'h1', ['H100']],
  ])('in %j replaces %j', (line, replaces, first) => {
    const found = at(line)!;
    expect(found.replaces).toBe(replaces);
    expect(found.words.slice(0, first.length)).toEqual(first);
  });

  it('offers an option once, unless it may be repeated', () => {
    const { words } = at('%%gpu H100 --name a --env A=1 --|')!;
    expect(words).not.toContain('--name');
    expect(words).toContain('--env');
    expect(at('%%gpu H100 --| --detach')!.words).not.toContain('--detach');
  });

  it('does not offer a GPU twice, nor cpu beside one', () => {
    const { words } = at('%%gpu h100:2,|')!;
    expect(words).not.toContain('H100');
    expect(words).not.toContain('cpu');
  });
});
