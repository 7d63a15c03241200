import { choiceOf, findMagicLine, gpuOf, splitWords, withGpu, withoutGpu } from '../magic_line';

const H100 = { gpu: 'H100', count: 1 };

describe('the %%gpu line of a cell', () => {
  it.each([
    ['', 'an empty cell'],
    ['x = 1', 'code'],
    ['# %%gpu H100\nx', 'a comment'],
    ['# first\n%%gpu H100\nx', 'behind a comment it is no cell magic'],
    ['%gpu stop', 'the line magic'],
    ['%%gpus H100', 'another magic'],
    ['%%time\nx = 1\n%%gpu H100', 'below code'],
  ])('is not found in %j: %s', (source) => {
    expect(findMagicLine(source)).toBeNull();
  });

  it.each([
    ['%%gpu', ''],
    ['%%gpu H100', 'H100'],
    ['\n\n  %%gpu H100\nx', 'H100'],
    ['%%time\n%%gpu H100:2 --name a\nx', 'H100:2'],
    ['%%gpu --name a H100', 'H100'],
    ['%%gpu --name=a H100!', 'H100!'],
    ['%%gpu H100, A100-80GB --detach', 'H100,A100-80GB'],
    ['%%gpu --volume data:/data --env "A=b c" L4', 'L4'],
    ['%%gpu --detach cpu', 'cpu'],
    ['%%gpu --name train', ''],
  ])('of %j asks for %j', (source, gpu) => {
    expect(gpuOf(findMagicLine(source)!)).toBe(gpu);
  });

  it.each([
    ['%%gpu H100', { gpu: 'H100', count: 1 }],
    ['%%gpu H100!:4,L4', { gpu: 'H100', count: 4 }],
    ['%%gpu cpu', { gpu: 'cpu', count: 1 }],
    ['%%gpu H100:', { gpu: 'H100', count: 1 }],
  ])('of %j has a first choice', (source, choice) => {
    expect(choiceOf(findMagicLine(source)!)).toEqual(choice);
  });

  it('that names no GPU has none', () => {
    expect(choiceOf(findMagicLine('%%gpu --name train')!)).toBeNull();
  });
});

describe('choosing a GPU', () => {
  it.each([
    ['x = 1', '%%gpu H100\nx = 1'],
    ['', '%%gpu H100\n'],
    ['%%time\nx', '%%gpu H100\n%%time\nx'],
    ['%%gpu\nx', '%%gpu H100\nx'],
    ['%%gpu L4\nx', '%%gpu H100\nx'],
    ['%%gpu cpu --cpu 8\nx', '%%gpu H100 --cpu 8\nx'],
    ['%%gpu   L4   --name a\nx', '%%gpu   H100   --name a\nx'],
    ['%%gpu L4, T4 --name a\nx', '%%gpu H100 --name a\nx'],
    ['%%gpu L4 , T4\nx', '%%gpu H100\nx'],
    ['%%gpu --name a\nx', '%%gpu H100 --name a\nx'],
    ['%%gpu --name a L4 --detach\nx', '%%gpu --name a H100 --detach\nx'],
    ['%%gpu --env "A=b  c" L4\nx', '%%gpu --env "A=b  c" H100\nx'],
    ['%%gpu --volume data:/data:ro L4:8\nx', '%%gpu --volume data:/data:ro H100\nx'],
    ['%%time\n%%gpu L4\nx', '%%time\n%%gpu H100\nx'],
    ['\n%%gpu L4\nx', '\n%%gpu H100\nx'],
    ['%%gpu H100!\nx', '%%gpu H100!\nx'],
    ['%%gpu L4!\nx', '%%gpu H100\nx'],
  ])('changes %j to %j', (source, expected) => {
    expect(withGpu(source, H100)).toBe(expected);
  });

  it.each([
    [{ gpu: 'H100', count: 8 }, '%%gpu H100:8 --detach\nx'],
    [{ gpu: 'any', count: 2 }, '%%gpu any:2 --detach\nx'],
    [{ gpu: 'cpu', count: 4 }, '%%gpu cpu --detach\nx'],
  ])('writes %j', (choice, expected) => {
    expect(withGpu('%%gpu T4 --detach\nx', choice)).toBe(expected);
  });

  it('keeps "exactly this model" when the count changes', () => {
    expect(withGpu('%%gpu h100!:2\nx', { gpu: 'H100', count: 3 })).toBe('%%gpu H100!:3\nx');
  });

  it('twice is the same as once', () => {
    const once = withGpu('%%gpu a, b --name "my one"\nx', H100);
    expect(withGpu(once, H100)).toBe(once);
  });
});

describe('running here', () => {
  it.each([
    ['%%gpu H100 --name a\nx = 1', 'x = 1'],
    ['%%time\n%%gpu H100\nx', '%%time\nx'],
    ['%%gpu H100', ''],
    ['x = 1', 'x = 1'],
  ])('changes %j to %j', (source, expected) => {
    expect(withoutGpu(source)).toBe(expected);
  });

  it('undoes the choice of a GPU', () => {
    expect(withoutGpu(withGpu('x = 1\n', H100))).toBe('x = 1\n');
  });
});

describe('words', () => {
  it('are split as a shell does', () => {
    const words = splitWords(` H100 --env A='b c' "d e"f g\\ h "open`, 5);
    expect(words.map((word) => word.text)).toEqual([
      'H100',
      '--env',
      'A=b c',
      'd ef',
      'g h',
      'open',
    ]);
    expect(words[0]).toEqual({ text: 'H100', start: 6, end: 10 });
  });
});
