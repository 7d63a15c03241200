import { KEPT, KEPT_CONTAINERS, line, withSamples } from '../usage';
import type { UsageSample } from '../../gateway/types';

const sample = (time: number, cpu = 0, gpu: number | null = null): UsageSample => [
  time,
  cpu,
  0,
  gpu,
  null,
];

it('samples are added, those that were there already are not', () => {
  const one = withSamples(new Map(), [{ container_id: 'co-1', samples: [sample(1), sample(2)] }]);
  const two = withSamples(one, [
    { container_id: 'co-1', samples: [sample(1), sample(2), sample(3)] },
  ]);
  expect(two.get('co-1')!.map(([time]) => time)).toEqual([1, 2, 3]);
  expect(one.get('co-1')).toHaveLength(2);
});

it('only the latest are kept, of containers too', () => {
  const samples = Array.from({ length: KEPT + 5 }, (_, time) => sample(time));
  const many = Array.from({ length: KEPT_CONTAINERS + 1 }, (_, index) => ({
    container_id: `co-${index}`,
    samples,
  }));
  const usage = withSamples(new Map(), many);
  expect(usage.size).toBe(KEPT_CONTAINERS);
  expect(usage.has('co-0')).toBe(false);
  expect(usage.get('co-1')).toHaveLength(KEPT);
  expect(usage.get('co-1')![0][0]).toBe(5);
});

it('a line is of the GPU where there is one, else of the cores', () => {
  expect(line([sample(1, 0.5, 0.25), sample(2, 1, null)], 1)).toEqual([0.25, 0]);
  expect(line([sample(1, 0.5), sample(2, 3)], 2)).toEqual([0.25, 1]);
  expect(line([], 1)).toEqual([]);
});
