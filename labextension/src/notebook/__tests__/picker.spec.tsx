import { act, fireEvent, render, screen } from '@testing-library/react';
import React from 'react';
import type { Gateway } from '../../gateway/rest';
import type { HostView, LiveFrame } from '../../gateway/types';
import type { Picked } from '../picker';
import { Picker } from '../picker';

const HOST = {
  connected: true,
  cpus: 4,
  cpus_reserved: 0,
  gpus: [
    {
      model: 'L4',
      count: 1,
      in_use: 0,
      memory: 24 * 2 ** 30,
      simulated: true,
      price: 0.8,
      holders: [],
    },
    {
      model: 'H100',
      count: 4,
      in_use: 4,
      memory: 80 * 2 ** 30,
      simulated: false,
      price: 2.5,
      holders: ['me'],
    },
  ],
} as unknown as HostView;

let state: string;
let tell: ((frame: LiveFrame) => void) | null;
let picked: Picked | null;

beforeEach(() => {
  state = 'connected';
  tell = null;
  picked = null;
  Element.prototype.scrollIntoView = () => undefined;
});

function show(more: Partial<React.ComponentProps<typeof Picker>> = {}): void {
  const live = {
    get state() {
      return state;
    },
    problem: '',
    stateChanged: { connect: () => undefined, disconnect: () => undefined },
    watch: (_: unknown, on: { frame(frame: LiveFrame): void }) => {
      tell = (frame) => on.frame(frame);
      return { dispose: () => undefined };
    },
  };
  render(
    <Picker
      gateway={{ live } as unknown as Gateway}
      current={null}
      currentText=""
      offersLoad={false}
      picked={(now) => (picked = now)}
      {...more}
    />,
  );
}

function hosts(...rows: HostView[]): void {
  act(() => tell!({ type: 'list', id: 'a', topic: 'hosts', rows }));
}

const options = () => screen.getAllByRole('option').map((option) => option.dataset.gpu);
const filter = () => screen.getByRole('combobox');

it('offers what there is and begins with what is free', () => {
  show();
  hosts(HOST);
  expect(options()).toEqual(['H100', 'L4', 'any', 'cpu', 'here']);
  expect(picked).toEqual({ choice: { gpu: 'L4', count: 1 }, load: false });
});

it('begins with what the cell asks for', () => {
  show({ current: { gpu: 'H100', count: 2 }, currentText: 'H100:2' });
  hosts(HOST);
  expect(picked).toEqual({ choice: { gpu: 'H100', count: 2 }, load: false });
});

it('is worked with the keyboard', () => {
  show();
  hosts(HOST);
  fireEvent.keyDown(filter(), { key: 'ArrowUp' });
  expect(picked!.choice).toEqual({ gpu: 'H100', count: 1 });
  const active = filter().getAttribute('aria-activedescendant')!;
  expect(document.getElementById(active)!.dataset.gpu).toBe('H100');
  fireEvent.keyDown(filter(), { key: 'PageDown' });
  expect(picked!.choice).toBe('here');
});

it('narrows with the filter, and picks nothing where nothing fits', () => {
  show();
  hosts(HOST);
  fireEvent.change(filter(), { target: { value: 'h1' } });
  expect(options()).toEqual(['H100']);
  expect(picked!.choice).toEqual({ gpu: 'H100', count: 1 });
  fireEvent.change(filter(), { target: { value: 'b200' } });
  expect(picked).toBeNull();
  expect(screen.getByRole('status').textContent).toBe('There is no “b200” here.');
});

it('has no more than one machine has, and the price of all of them', () => {
  show({ current: { gpu: 'H100', count: 1 }, currentText: 'H100' });
  hosts(HOST);
  fireEvent.change(screen.getByRole('spinbutton'), { target: { value: '9' } });
  expect(picked!.choice).toEqual({ gpu: 'H100', count: 4 });
  expect(screen.getByRole('option', { selected: true }).textContent).toContain('$10.00/h');
});

it('keeps what was chosen when the list changes', () => {
  show();
  hosts(HOST);
  fireEvent.click(screen.getByRole('option', { name: /CPU only/ }));
  hosts({ ...HOST, gpus: [] });
  expect(picked!.choice).toEqual({ gpu: 'cpu', count: 1 });
});

it('offers every model while the gateway is away, and says that what is free is not known', () => {
  state = 'gateway-away';
  show();
  expect(options()).toContain('B200');
  expect(screen.getByRole('status').textContent).toContain('not known while the gateway is away');
});

it('loads the magics where the notebook does not, unless it is told not to', () => {
  show({ offersLoad: true });
  hosts(HOST);
  expect(picked!.load).toBe(true);
  fireEvent.click(screen.getByRole('checkbox'));
  expect(picked!.load).toBe(false);
  fireEvent.click(screen.getByRole('option', { name: /Here/ }));
  expect(screen.queryByRole('checkbox')).toBeNull();
});
