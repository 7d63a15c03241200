import { fireEvent, render, screen } from '@testing-library/react';
import React, { useState } from 'react';
import { VirtualList } from '../virtual-list';
import { scrollTopFor, visibleRange } from '../windowing';

describe('visibleRange', () => {
  it('has what is to be seen, and a few more', () => {
    expect(visibleRange(0, 400, 40, 10_000, 5)).toEqual({ first: 0, end: 15 });
    expect(visibleRange(4010, 400, 40, 10_000, 5)).toEqual({ first: 95, end: 116 });
    expect(visibleRange(399_600, 400, 40, 10_000, 5)).toEqual({ first: 9985, end: 10_000 });
  });

  it('has nothing of nothing, and stays within a list that has become shorter', () => {
    expect(visibleRange(0, 400, 40, 0)).toEqual({ first: 0, end: 0 });
    expect(visibleRange(4000, 400, 40, 10)).toEqual({ first: 10, end: 10 });
  });
});

describe('scrollTopFor', () => {
  it('moves no farther than it must', () => {
    expect(scrollTopFor(5, 100, 400, 40)).toBe(100);
    expect(scrollTopFor(1, 100, 400, 40)).toBe(40);
    expect(scrollTopFor(20, 100, 400, 40)).toBe(440);
  });
});

describe('VirtualList', () => {
  const opened = jest.fn();
  const nearEnd = jest.fn();

  function List({ count }: { count: number }): JSX.Element {
    const [active, setActive] = useState(-1);
    return (
      <VirtualList
        count={count}
        rowHeight={40}
        label="Things"
        row={(index) => `Thing ${index}`}
        rowKey={String}
        active={active}
        setActive={setActive}
        open={opened}
        nearEnd={nearEnd}
      />
    );
  }

  beforeEach(() => {
    opened.mockClear();
    nearEnd.mockClear();
    jest.spyOn(HTMLElement.prototype, 'clientHeight', 'get').mockReturnValue(400);
  });

  it('has few of 10,000 rows in the page', () => {
    render(<List count={10_000} />);
    expect(screen.getAllByRole('option').length).toBeLessThan(40);
    expect(screen.getAllByRole('option')[3].getAttribute('aria-posinset')).toBe('4');
    expect(screen.getAllByRole('option')[3].getAttribute('aria-setsize')).toBe('10000');
    expect(nearEnd).not.toHaveBeenCalled();
  });

  it('is gone through with the keyboard', () => {
    render(<List count={10_000} />);
    const list = screen.getByRole('listbox', { name: 'Things' });
    fireEvent.focus(list);
    fireEvent.keyDown(list, { key: 'ArrowDown' });
    fireEvent.keyDown(list, { key: 'Enter' });
    expect(opened).toHaveBeenLastCalledWith(1);
    fireEvent.keyDown(list, { key: 'End' });
    expect(screen.getByText('Thing 9999').getAttribute('aria-selected')).toBe('true');
    expect(list.getAttribute('aria-activedescendant')).toBe(screen.getByText('Thing 9999').id);
    expect(nearEnd).toHaveBeenCalled();
    fireEvent.keyDown(list, { key: 'Home' });
    fireEvent.keyDown(list, { key: ' ' });
    expect(opened).toHaveBeenLastCalledWith(0);
  });

  it('opens what is clicked', () => {
    render(<List count={3} />);
    fireEvent.click(screen.getByText('Thing 2'));
    expect(opened).toHaveBeenCalledWith(2);
  });
});
