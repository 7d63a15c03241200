import type { JupyterFrontEnd } from '@jupyterlab/application';
import { act, fireEvent, render, screen, waitFor } from '@testing-library/react';
import { CommandRegistry } from '@lumino/commands';
import { Signal } from '@lumino/signaling';
import React from 'react';
import type { Gateway } from '../../gateway/rest';
import { GatewayError } from '../../gateway/rest';
import { VolumeCommands } from '../commands';
import { VolumesModel } from '../model';
import { VolumeTreeView } from '../tree-view';
import { UploadList } from '../upload-list';

interface Answer {
  status?: number;
  body?: unknown;
}

/** A gateway that answers from a table of paths. */
function gatewayOf(answers: Record<string, Answer>) {
  const asked: string[] = [];
  const gateway = {
    live: { state: 'connected', stateChanged: new Signal<object, string>({}) },
    url: (path: string) => `/skylift/${path}`,
    fetch: (path: string, init: RequestInit = {}) => {
      const body = typeof init.body === 'string' ? ` ${init.body}` : '';
      asked.push(`${init.method ?? 'GET'} ${path}${body}`);
      const { status = 200, body: answer = {} } = answers[path] ?? {
        status: 404,
        body: { error: 'PathNotFoundError', message: 'There is no such file.' },
      };
      if (status >= 400) {
        const { error, message } = answer as { error: string; message: string };
        return Promise.reject(new GatewayError(status, error, message));
      }
      const text = typeof answer === 'string' ? answer : JSON.stringify(answer);
      return Promise.resolve({
        text: async () => text,
        json: async () => JSON.parse(text) as unknown,
      });
    },
  };
  return { gateway: gateway as unknown as Gateway, asked, answers };
}

const entry = (path: string, kind = 'file') =>
  JSON.stringify({ path, kind, size: 1500, mtime: 1, mode: 420, files: 0 }) + '\n';
const entries = (folder: string) => `v1/volumes/data/entries?path=${encodeURIComponent(folder)}`;
const info = (name: string, version = 1) => ({
  name,
  volume_id: `vo-${name}`,
  created: 1,
  version,
  changed: 1,
  files: 2,
  size: 3000,
});

function tree(answers: Record<string, Answer>) {
  const made = gatewayOf(answers);
  const commands = new CommandRegistry();
  const done: string[] = [];
  for (const id of Object.values(VolumeCommands)) {
    commands.addCommand(id, { execute: () => void done.push(id) });
  }
  const app = { commands, docRegistry: { getFileTypesForPath: () => [] } };
  const model = VolumesModel.of(made.gateway);
  model.tree.setVolumes([info('data'), info('other')]);
  render(<VolumeTreeView model={model} app={app as unknown as JupyterFrontEnd} />);
  const names = () =>
    screen.getAllByRole('treeitem').map((item) => item.getAttribute('aria-label') ?? 'input');
  const key = (...keys: string[]) => {
    for (const each of keys) {
      fireEvent.keyDown(screen.getByRole('tree'), { key: each });
    }
  };
  return { ...made, model, done, names, key };
}

beforeAll(() => {
  // jsdom lays nothing out.
  for (const [side, size] of [
    ['clientHeight', 400],
    ['clientWidth', 280],
  ] as const) {
    Object.defineProperty(HTMLElement.prototype, side, { configurable: true, get: () => size });
  }
});

const folder = { [entries('/')]: { body: entry('in', 'dir') + entry('a.csv') + entry('b.csv') } };

describe('the tree', () => {
  it('is walked, opened and closed with the keyboard', async () => {
    const { names, key, done, model } = tree({
      ...folder,
      [entries('/in')]: { body: entry('in/x') },
    });
    act(() => screen.getByRole('tree').focus());
    await waitFor(() => expect(model.tree.selected).toBe('data@:'));
    key('ArrowRight');
    await screen.findByRole('treeitem', { name: 'a.csv, file, 1.5 kB' });
    expect(names()).toEqual([
      'data, volume, 3.0 kB',
      'in, folder, 1.5 kB',
      'a.csv, file, 1.5 kB',
      'b.csv, file, 1.5 kB',
      'other, volume, 3.0 kB',
    ]);
    key('ArrowRight');
    await waitFor(() => expect(model.tree.selected).toBe('data@:in'));
    key('Enter');
    await screen.findByRole('treeitem', { name: /^x, file/ });
    key('b');
    await waitFor(() => expect(model.tree.selected).toBe('data@:b.csv'));
    key('Enter');
    await waitFor(() => expect(done).toEqual([VolumeCommands.open]));
    key('ArrowLeft');
    await waitFor(() => expect(model.tree.selected).toBe('data@:'));
    key('ArrowLeft');
    await waitFor(() => expect(names()).toHaveLength(2));
    const item = screen.getByRole('treeitem', { name: /^data/ });
    expect(item.getAttribute('aria-expanded')).toBe('false');
    expect(screen.getByRole('tree').getAttribute('aria-activedescendant')).toBe(item.id);
  });

  it('says below a folder what is wrong with it', async () => {
    const problem = {
      status: 503,
      body: { error: 'ConnectionError', message: 'The store is away.' },
    };
    const { model, answers } = tree({ [entries('/')]: problem });
    fireEvent.click(screen.getByRole('treeitem', { name: /^data/ }));
    expect((await screen.findByRole('alert')).textContent).toBe('The store is away.');
    answers[entries('/')] = folder[entries('/')];
    fireEvent.click(screen.getByRole('button', { name: 'Try again' }));
    await screen.findByRole('treeitem', { name: /^a.csv/ });
    expect(model.tree.rows().some((row) => row.kind === 'problem')).toBe(false);
  });

  it('renames in its place, and keeps the input while the name will not do', async () => {
    const { model, asked, answers } = tree(folder);
    fireEvent.click(screen.getByRole('treeitem', { name: /^data/ }));
    await screen.findByRole('treeitem', { name: /^a.csv/ });
    act(() => model.startRenaming('data@:a.csv'));
    const input = await screen.findByRole<HTMLInputElement>('textbox', {
      name: 'New name for a.csv',
    });
    expect([input.selectionStart, input.selectionEnd]).toEqual([0, 1]);
    fireEvent.change(input, { target: { value: 'in/a.csv' } });
    fireEvent.keyDown(input, { key: 'Enter' });
    expect((await screen.findByRole('alert')).textContent).toMatch(/cannot have a “\/”/);

    answers['v1/volumes/data/rename'] = { body: { version: 2 } };
    answers[entries('/')] = { body: entry('c.csv') };
    fireEvent.change(input, { target: { value: 'c.csv' } });
    fireEvent.keyDown(input, { key: 'Enter' });
    await screen.findByRole('treeitem', { name: /^c.csv/ });
    expect(asked).toContain('POST v1/volumes/data/rename source=a.csv&target=c.csv&force=false');
    await waitFor(() => expect(screen.queryByRole('textbox')).toBeNull());
    expect(model.tree.selected).toBe('data@:c.csv');
  });

  it('makes a volume, and says why one cannot be made', async () => {
    const { model, asked, answers } = tree({
      'v1/volumes': {
        status: 409,
        body: { error: 'AlreadyExistsError', message: 'There is one.' },
      },
    });
    act(() => model.tree.startNaming({ volume: '', version: null, path: '' }));
    const input = await screen.findByRole('textbox', { name: 'Name of the new volume' });
    fireEvent.change(input, { target: { value: 'data' } });
    fireEvent.keyDown(input, { key: 'Enter' });
    expect((await screen.findByRole('alert')).textContent).toBe('There is one.');
    answers['v1/volumes'] = { body: info('new') };
    fireEvent.change(input, { target: { value: 'new' } });
    fireEvent.keyDown(input, { key: 'Enter' });
    await waitFor(() => expect(screen.queryByRole('textbox')).toBeNull());
    expect(asked).toContain('POST v1/volumes name=new');
  });

  it('has only the lines in sight in the page, and the selected one', async () => {
    const many = Array.from({ length: 10_000 }, (_, at) => entry(`f${at}`)).join('');
    const { model } = tree({ [entries('/')]: { body: many } });
    fireEvent.click(screen.getByRole('treeitem', { name: /^data/ }));
    await screen.findByRole('treeitem', { name: /^f0,/ });
    expect(screen.getAllByRole('treeitem').length).toBeLessThan(60);
    act(() => model.tree.select('data@:f5000'));
    const item = await screen.findByRole('treeitem', { name: /^f5000,/ });
    expect(item.getAttribute('aria-posinset')).toBe('5001');
    expect(item.getAttribute('aria-setsize')).toBe('10000');
  });
});

describe('the uploads', () => {
  it('ask about a file that is there, and go on as they are told', async () => {
    const stat = `v1/volumes/data/entry?path=${encodeURIComponent('/a.csv')}`;
    const { gateway, asked } = gatewayOf({
      [stat]: { body: JSON.parse(entry('a.csv')) as unknown },
      uploads: { body: { upload_id: 'u1', offset: 3 } },
      'uploads/u1/finish': { body: { path: 'a.csv', size: 3 } },
    });
    const model = VolumesModel.of(gateway);
    render(<UploadList model={model} />);
    const root = { volume: 'data', version: null, path: '' };
    await act(() => model.upload(root, [{ path: 'a.csv', file: new File(['abc'], 'a.csv') }]));
    fireEvent.click(await screen.findByRole('button', { name: 'Replace' }));
    await screen.findByText('done, went on from 3 B');
    expect(asked).toContain('POST uploads/u1/finish');
    fireEvent.click(screen.getByRole('button', { name: 'Clear' }));
    await waitFor(() => expect(screen.queryByRole('region', { name: 'Uploads' })).toBeNull());
  });

  it('are refused where the folder’s name is no text', async () => {
    const { gateway } = gatewayOf({});
    const model = VolumesModel.of(gateway);
    model.tree.setVolumes([info('data')]);
    const odd = { volume: 'data', version: null, path: 'odd\udcff' };
    await model.upload(odd, [{ path: 'a', file: new File([''], 'a') }]);
    expect(model.uploads.uploads).toEqual([]);
  });
});
