import type { GpuView, HostView } from '../../gateway/types';
import {
  availability,
  availabilityText,
  gpuChoices,
  greatestCount,
  matching,
  priceText,
  startingChoice,
} from '../gpu_choices';

function gpu(model: string, count: number, inUse: number, more: Partial<GpuView> = {}): GpuView {
  return {
    model,
    count,
    in_use: inUse,
    memory: 80 * 2 ** 30,
    simulated: false,
    price: 2,
    holders: [],
    ...more,
  };
}

function host(gpus: GpuView[], more: Partial<HostView> = {}): HostView {
  return {
    host_id: 'ho-1',
    hostname: 'one',
    engine: 'local',
    connected: true,
    since: 0,
    isolation: 'runc',
    rootless: false,
    kernel: '6.1',
    cpus: 8,
    cpus_reserved: 2.5,
    memory: 16384,
    memory_reserved: 0,
    gpus,
    containers: 0,
    problem: '',
    ...more,
  };
}

const TWO = [
  host([gpu('L4', 2, 1, { price: 0.5 }), gpu('H100', 4, 4, { holders: ['session train (4)'] })]),
  host([gpu('H100', 2, 1, { price: 3 })]),
];

describe('what a cell can run on', () => {
  it('is every model of all machines, large ones first, then any and cpu', () => {
    const choices = gpuChoices(TWO);
    expect(choices.map((choice) => choice.gpu)).toEqual(['H100', 'L4', 'any', 'cpu']);
    expect(choices[0]).toMatchObject({ total: 6, free: 1, most: 4, prices: [2, 3] });
    expect(choices[2]).toMatchObject({ total: 8, free: 2, most: 4, prices: [0.5, 3] });
    expect(choices[3]).toMatchObject({ total: 16, free: 11 });
  });

  it('has no "any" for one model, and nothing of machines that are away', () => {
    const choices = gpuChoices([
      host([gpu('H100', 1, 0)]),
      host([gpu('L4', 1, 0)], { connected: false }),
    ]);
    expect(choices.map((choice) => choice.gpu)).toEqual(['H100', 'cpu']);
  });

  it('has models that we do not know at the end', () => {
    const choices = gpuChoices([host([gpu('RTX 9000', 1, 0), gpu('T4', 1, 0)])]);
    expect(choices.map((choice) => choice.gpu)).toEqual(['T4', 'RTX 9000', 'any', 'cpu']);
  });

  it('without machines is cpu, which is not there', () => {
    const [cpu] = gpuChoices([]);
    expect(availability(cpu, 1)).toBe('not there');
    expect(availabilityText(cpu, 1)).toBe('no machine is connected');
  });

  it.each([
    [1, 'free', '1 of 6 free'],
    [2, 'in use', '1 of 6 free, not 2 on one machine: session train (4)'],
    [8, 'not there', 'no machine has 8; the most is 4'],
  ])('says whether %d are there', (count, there, text) => {
    const [h100] = gpuChoices(TWO);
    expect(availability(h100, count)).toBe(there);
    expect(availabilityText(h100, count)).toBe(text);
  });

  it('says who has all of them', () => {
    const [one] = gpuChoices([host([gpu('H100', 1, 1, { holders: ['session train (1)'] })])]);
    expect(availabilityText(one, 1)).toBe('in use: session train (1)');
    const [two] = gpuChoices([host([gpu('H100', 2, 2)])]);
    expect(availabilityText(two, 1)).toBe('all 2 in use');
  });

  it('says what it costs', () => {
    const [h100, l4, , cpu] = gpuChoices(TWO);
    expect(priceText(h100, 2)).toBe('$4.00–6.00/h');
    expect(priceText(l4, 1)).toBe('$0.50/h');
    expect(priceText(cpu, 1)).toBe('');
  });

  it('has a greatest count', () => {
    expect(greatestCount(gpuChoices(TWO)[0])).toBe(4);
    expect(greatestCount(undefined)).toBe(1);
  });
});

describe('the filter', () => {
  it.each([
    ['', ['H100', 'L4', 'any', 'cpu']],
    ['h1', ['H100']],
    ['gpu', ['any']],
    ['CPU only', ['cpu']],
    ['free l', ['L4', 'cpu']],
    ['b200', []],
  ])('of %j leaves %j', (text, left) => {
    expect(matching(gpuChoices(TWO), text).map((choice) => choice.gpu)).toEqual(left);
  });
});

describe('the picker begins', () => {
  it('with what the cell asks for', () => {
    expect(startingChoice(gpuChoices(TWO), { gpu: 'l4', count: 1 })).toBe(1);
  });

  it('else with the first that is free', () => {
    const choices = gpuChoices([host([gpu('H100', 1, 1), gpu('L4', 1, 0)])]);
    expect(startingChoice(choices, null)).toBe(1);
    expect(startingChoice(choices, { gpu: 'B200', count: 1 })).toBe(1);
    expect(startingChoice([], null)).toBe(0);
  });
});
