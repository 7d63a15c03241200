/** What may stand in a `%%gpu` line: the same as in magics/options.py, which a test compares it with. */

/** One option of `%%gpu`. */
export interface MagicOption {
  name: string;
  /** What its value looks like; "" for a switch. */
  value: string;
  help: string;
  repeatable?: boolean;
}

/** In the order of `%%gpu?`. */
export const OPTIONS: readonly MagicOption[] = [
  { name: '--cpu', value: 'CORES', help: 'cores to reserve, such as 8 or 0.5' },
  {
    name: '--memory',
    value: 'SIZE',
    help: 'memory that it has, and no more: 32 or 32G are GiB, 512M are MiB',
  },
  {
    name: '--timeout',
    value: 'TIME',
    help: 'ends the cell after this long: 90s, 5m, 2h (default 24h)',
  },
  {
    name: '--idle',
    value: 'TIME',
    help: 'keeps the session this long when nothing runs (default 10m)',
  },
  {
    name: '--idle-policy',
    value: 'POLICY',
    help: 'then: sleep (kept where it cannot), sleep-or-stop, stop, keep (default sleep)',
  },
  {
    name: '--name',
    value: 'NAME',
    help: 'names the session; cells with the same name share their variables',
  },
  {
    name: '--image',
    value: 'VARIABLE',
    help: 'a variable that holds an Image (default: this environment)',
  },
  {
    name: '--env',
    value: 'NAME=VALUE',
    help: 'an environment variable; may be given more than once',
    repeatable: true,
  },
  {
    name: '--volume',
    value: 'NAME:/PATH[:ro]',
    help: 'a volume, made where there is none; ro: only to be read',
    repeatable: true,
  },
  {
    name: '--detach',
    value: '',
    help: 'runs on without the notebook; %gpu attach ID streams it back',
  },
  {
    name: '--dry-run',
    value: '',
    help: 'says what it would run on and cost, where, and what else there is; runs nothing',
  },
];

/** What may stand where `%%gpu` wants a GPU, large ones first. */
export const GPU_NAMES: readonly string[] = [
  'B200',
  'H200',
  'H100',
  'A100-80GB',
  'A100-40GB',
  'L40S',
  'A10G',
  'L4',
  'T4',
  'any',
  'cpu',
];

export const IDLE_POLICIES: readonly string[] = ['sleep', 'sleep-or-stop', 'stop', 'keep'];

/** Most GPUs of one container: they are in one machine. */
export const MAX_COUNT = 16;

const WITH_VALUE = new Set(OPTIONS.filter((option) => option.value).map((option) => option.name));
// Not built yet, and a value follows them all the same.
const LATER = new Set(['--cloud', '--region', '--zone', '--secret', '--max-cost']);

/** Whether the word after this option is its value. */
export function takesValue(name: string): boolean {
  return WITH_VALUE.has(name) || LATER.has(name);
}
