import React, { useEffect, useId, useMemo, useRef, useState } from 'react';
import type { Gateway } from '../gateway/rest';
import type { HostView } from '../gateway/types';
import { gpuMemory } from '../machines/words';
import { useLink, useList } from '../ui/hooks';
import type { GpuChoice } from './gpu_choices';
import {
  availability,
  availabilityText,
  gpuChoices,
  greatestCount,
  label,
  matching,
  priceText,
  startingChoice,
  unknownChoices,
} from './gpu_choices';
import type { Choice } from './magic_line';

/** What is picked: `here` takes the `%%gpu` line away. */
export interface Picked {
  choice: Choice | 'here';
  /** Put `%load_ext skylift` into the notebook. */
  load: boolean;
}

/** A picker of what a cell runs on: a filter, a list of what there is now, and how many. */
export function Picker(props: {
  gateway: Gateway;
  /** What the cell asks for now. */
  current: Choice | null;
  /** That text, such as `"H100,L4"`; "" where the cell has no `%%gpu` line. */
  currentText: string;
  /** Whether to offer to load the magics. */
  offersLoad: boolean;
  picked: (picked: Picked | null) => void;
}): JSX.Element {
  const { gateway, current, picked } = props;
  const hosts = useList<HostView>(gateway, 'hosts');
  const link = useLink(gateway);
  const [filter, setFilter] = useState('');
  const [chosen, setChosen] = useState('');
  const [count, setCount] = useState(current?.count ?? 1);
  const [load, setLoad] = useState(props.offersLoad);
  const id = useId();
  const list = useRef<HTMLUListElement>(null);

  const known = link.state === 'connected' && hosts.rows !== null;
  const choices = useMemo(
    () => (known && hosts.rows ? gpuChoices(hosts.rows) : unknownChoices()),
    [known, hosts.rows],
  );
  const shown = useMemo(() => {
    const fitting: (GpuChoice | 'here')[] = matching(choices, filter);
    const here = filter.trim() === '' || 'here this kernel'.includes(filter.trim().toLowerCase());
    return here ? [...fitting, 'here' as const] : fitting;
  }, [choices, filter]);
  const names = shown.map(nameOf);
  // Until one is chosen it is what the cell has now, or what is free; the filter may hide it.
  const preferred = chosen || nameOf(choices[startingChoice(choices, current)] ?? 'here');
  const active = Math.max(names.indexOf(preferred), 0);
  const selected = shown[active];
  const gpu = selected === 'here' ? undefined : selected;
  const counted = gpu !== undefined && gpu.gpu !== 'cpu';
  const most = greatestCount(gpu);
  const wanted = counted ? Math.min(Math.max(count, 1), most) : 1;

  useEffect(() => {
    picked(
      selected === undefined
        ? null
        : {
            choice: selected === 'here' ? 'here' : { gpu: selected.gpu, count: wanted },
            load: load && selected !== 'here',
          },
    );
  }, [picked, selected, wanted, load]);
  useEffect(() => {
    list.current?.children[active]?.scrollIntoView({ block: 'nearest' });
  }, [active]);

  const move = (event: React.KeyboardEvent) => {
    const to = {
      ArrowDown: active + 1,
      ArrowUp: active - 1,
      PageDown: active + 5,
      PageUp: active - 5,
    }[event.key];
    if (to === undefined || shown.length === 0) {
      return;
    }
    event.preventDefault();
    setChosen(names[Math.min(Math.max(to, 0), shown.length - 1)]);
  };

  return (
    <div className="jp-skylift-picker" data-skylift="picker">
      <input
        type="text"
        className="jp-mod-styled jp-skylift-picker-filter"
        role="combobox"
        aria-label="What to run the cell on"
        aria-expanded="true"
        aria-controls={`${id}-list`}
        aria-autocomplete="list"
        aria-activedescendant={selected === undefined ? undefined : `${id}-${active}`}
        placeholder="Filter"
        spellCheck={false}
        value={filter}
        onChange={(event) => setFilter(event.target.value)}
        onKeyDown={move}
      />
      <ul
        id={`${id}-list`}
        ref={list}
        role="listbox"
        aria-label="GPUs"
        className="jp-skylift-picker-list"
      >
        {shown.map((choice, index) => (
          <li
            key={names[index]}
            id={`${id}-${index}`}
            role="option"
            aria-selected={index === active}
            data-gpu={names[index]}
            data-availability={choice === 'here' ? 'free' : availability(choice, 1)}
            onMouseDown={(event) => event.preventDefault()}
            onClick={() => setChosen(names[index])}
          >
            {choice === 'here' ? (
              <>
                <span className="jp-skylift-picker-name">Here</span>
                <span className="jp-skylift-picker-there">
                  in the notebook’s own kernel, without %%gpu
                </span>
              </>
            ) : (
              <Offer choice={choice} count={index === active ? wanted : 1} />
            )}
          </li>
        ))}
      </ul>
      <p role="status" className="jp-skylift-picker-message">
        {message(link, known, shown.length, filter)}
      </p>
      <div className="jp-skylift-picker-more">
        <label>
          How many{' '}
          <input
            type="number"
            className="jp-mod-styled"
            data-skylift="count"
            min={1}
            max={most}
            value={counted ? wanted : 1}
            disabled={!counted}
            onChange={(event) => setCount(event.target.valueAsNumber || 1)}
          />
        </label>
        {props.currentText.includes(',') && selected !== 'here' && (
          <span>replaces {props.currentText}</span>
        )}
      </div>
      {props.offersLoad && selected !== 'here' && (
        <label className="jp-skylift-picker-load">
          <input
            type="checkbox"
            checked={load}
            onChange={(event) => setLoad(event.target.checked)}
          />
          <span>
            Put <code>%load_ext skylift</code> at the top, since no cell of this notebook has it
          </span>
        </label>
      )}
    </div>
  );
}

function Offer({ choice, count }: { choice: GpuChoice; count: number }): JSX.Element {
  return (
    <>
      <span className="jp-skylift-picker-name">{label(choice)}</span>
      {choice.simulated && <span className="jp-skylift-tag">simulated</span>}
      <span className="jp-skylift-picker-there">{availabilityText(choice, count)}</span>
      <span className="jp-skylift-picker-memory">
        {choice.memory > 0 ? gpuMemory(choice.memory) : ''}
      </span>
      <span className="jp-skylift-picker-price">{priceText(choice, count)}</span>
    </>
  );
}

function nameOf(choice: GpuChoice | 'here'): string {
  return choice === 'here' ? 'here' : choice.gpu;
}

function message(
  link: { state: string; problem: string },
  known: boolean,
  shown: number,
  filter: string,
): string {
  if (shown === 0) {
    return `There is no “${filter.trim()}” here.`;
  }
  if (known || link.state === 'connecting' || link.state === 'connected') {
    return '';
  }
  return 'What is free is not known while the gateway is away. A cell that runs with %%gpu starts this machine’s.';
}
