/** The tree of volumes. Only the lines in sight are in the page. */
import * as React from 'react';
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from 'react';
import { Dialog, showDialog } from '@jupyterlab/apputils';
import type { JupyterFrontEnd } from '@jupyterlab/application';
import { VolumeCommands } from './commands';
import { hasFiles, readDrop } from './dropped';
import { openMenu } from './menu';
import type { VolumesModel } from './model';
import { startFileDrag } from './file-drag';
import { shown } from './names';
import { TreeRow } from './tree-row';
import { folderOf, keyOf } from './tree-rows';
import type { Place, Row } from './tree-rows';
import { useSignal } from './use-signal';
import { inSight, topsOf } from './windowing';

const LINE = 24;
const TEXT_LINE = 17;
const BEYOND = 8;
const TYPED_SECONDS = 0.8;

export interface IVolumeTreeViewProps {
  model: VolumesModel;
  app: JupyterFrontEnd;
}

export function VolumeTreeView({ model, app }: IVolumeTreeViewProps): React.ReactElement {
  const { tree } = model;
  useSignal(tree.changed);
  useSignal(model.renamingChanged);
  const rows = tree.rows();
  const view = useRef<HTMLDivElement>(null);
  const [scroll, setScroll] = useState(0);
  const [size, setSize] = useState({ width: 280, height: 400 });
  const [editProblem, setEditProblem] = useState('');
  const [target, setTarget] = useState('');
  const ids = useRef(new Map<string, number>());
  const typed = useRef({ text: '', at: 0 });
  const kept = useRef(tree.selected);

  useEffect(() => {
    const node = view.current;
    if (!node) {
      return;
    }
    const measure = () => setSize({ width: node.clientWidth, height: node.clientHeight });
    const observer = new ResizeObserver(measure);
    observer.observe(node);
    measure();
    return () => observer.disconnect();
  }, []);

  const editing = model.renaming || (tree.naming ? 'new' : '');
  useEffect(() => setEditProblem(''), [editing]);

  const tops = useMemo(() => {
    const letters = (level: number) => Math.max(12, (size.width - 44 - level * 14) / 6.7);
    const lines = (text: string, level: number) =>
      text
        .split('\n')
        .reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / letters(level))), 0);
    return topsOf(rows.length, (at) => {
      const row = rows[at];
      if (row.kind === 'problem') {
        return 40 + TEXT_LINE * lines(row.text ?? '', row.level);
      }
      if (row.kind === 'note') {
        return Math.max(LINE, 7 + TEXT_LINE * lines(row.text ?? '', row.level));
      }
      if (editProblem && (row.kind === 'new' || row.key === model.renaming)) {
        return LINE + 6 + TEXT_LINE * lines(editProblem, row.level);
      }
      return LINE;
    });
  }, [rows, size.width, editProblem, model.renaming]);

  const selectedAt = rows.findIndex((row) => row.key === tree.selected);

  // What is selected, or is being named, is brought into sight when it comes to be.
  const wanted = editing === 'new' ? rows.findIndex((row) => row.kind === 'new') : selectedAt;
  const wantedKey = wanted < 0 ? '' : rows[wanted].key;
  useLayoutEffect(() => {
    const node = view.current;
    if (!node || wanted < 0 || kept.current === wantedKey) {
      return;
    }
    kept.current = wantedKey;
    if (tops[wanted] < node.scrollTop) {
      node.scrollTop = tops[wanted];
    } else if (tops[wanted + 1] > node.scrollTop + node.clientHeight) {
      node.scrollTop = tops[wanted + 1] - node.clientHeight;
    }
  }, [wantedKey, wanted, tops]);

  const focus = useCallback(() => view.current?.focus(), []);
  const idOf = (key: string) => {
    let number = ids.current.get(key);
    if (number === undefined) {
      number = ids.current.size;
      ids.current.set(key, number);
    }
    return `jp-skylift-volumes-row-${number}`;
  };

  const toggle = (row: Row) => {
    if (row.expanded) {
      tree.collapse(row.key);
    } else {
      tree.expand(row.key, row.place);
    }
  };

  const activate = (row: Row) => {
    if (row.expanded !== undefined) {
      toggle(row);
    } else if (row.kind === 'file' || row.kind === 'link') {
      void app.commands.execute(VolumeCommands.open);
    }
  };

  const menuAt = (row: Row | undefined, x: number, y: number) => {
    if (row) {
      tree.select(row.key);
    }
    openMenu(
      app.commands,
      row && row.kind !== 'note' && row.kind !== 'problem' && row.kind !== 'new' ? row : undefined,
      x,
      y,
    );
  };

  const onKeyDown = (event: React.KeyboardEvent) => {
    if (event.target !== view.current) {
      return;
    }
    const row = rows[selectedAt] as Row | undefined;
    const go = (to: number) => {
      const next = rows[Math.max(0, Math.min(rows.length - 1, to))];
      if (next) {
        tree.select(next.key);
      }
    };
    const page = Math.max(1, Math.floor(size.height / LINE) - 1);
    const handled = () => {
      event.preventDefault();
      event.stopPropagation();
    };
    switch (event.key) {
      case 'ArrowDown':
        handled();
        return go(selectedAt + 1);
      case 'ArrowUp':
        handled();
        return go(selectedAt < 0 ? 0 : selectedAt - 1);
      case 'PageDown':
        handled();
        return go(selectedAt + page);
      case 'PageUp':
        handled();
        return go(selectedAt - page);
      case 'Home':
        handled();
        return go(0);
      case 'End':
        handled();
        return go(rows.length - 1);
      case 'ArrowRight':
        handled();
        if (row?.expanded === false) {
          toggle(row);
        } else if (row?.expanded) {
          go(selectedAt + 1);
        }
        return;
      case 'ArrowLeft':
        handled();
        if (row?.expanded) {
          toggle(row);
        } else if (row) {
          for (let at = selectedAt - 1; at >= 0; at--) {
            if (rows[at].level < row.level) {
              return go(at);
            }
          }
        }
        return;
      case 'Enter':
        if (row && !event.altKey && !event.ctrlKey && !event.metaKey) {
          handled();
          activate(row);
        }
        return;
      case 'ContextMenu':
      case 'F10':
        if (event.key === 'F10' && !event.shiftKey) {
          return;
        }
        handled();
        if (view.current) {
          const box = view.current.getBoundingClientRect();
          const y = selectedAt < 0 ? 0 : tops[selectedAt + 1] - view.current.scrollTop;
          menuAt(row, box.left + 24, box.top + Math.max(0, Math.min(y, box.height)));
        }
        return;
    }
    if (
      event.key.length === 1 &&
      event.key !== ' ' &&
      !event.ctrlKey &&
      !event.metaKey &&
      !event.altKey
    ) {
      handled();
      const now = event.timeStamp / 1000;
      const text =
        now - typed.current.at < TYPED_SECONDS ? typed.current.text + event.key : event.key;
      typed.current = { text, at: now };
      const small = text.toLowerCase();
      const from = text.length > 1 ? selectedAt : selectedAt + 1;
      for (let step = 0; step < rows.length; step++) {
        const at = (Math.max(0, from) + step) % rows.length;
        if (rows[at].name.toLowerCase().startsWith(small)) {
          return go(at);
        }
      }
    }
  };

  const rowUnder = (node: EventTarget | null): Row | undefined => {
    const element = node instanceof Element ? node.closest<HTMLElement>('[data-row]') : null;
    return element ? rows[Number(element.dataset.row)] : undefined;
  };

  const folderUnder = (node: EventTarget | null): Place | null => {
    const row = rowUnder(node);
    const folder = row && row.kind !== 'new' ? folderOf(row) : null;
    if (folder) {
      return folder.version === null && folder.volume ? folder : null;
    }
    const only = tree.volumes?.length === 1 ? tree.volumes[0].name : '';
    return only ? { volume: only, version: null, path: '' } : null;
  };

  const onDragOver = (event: React.DragEvent) => {
    if (!hasFiles(event.dataTransfer)) {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    const folder = folderUnder(event.target);
    event.dataTransfer.dropEffect = folder ? 'copy' : 'none';
    setTarget(folder ? keyOf(folder) : '');
  };

  const onDrop = (event: React.DragEvent) => {
    if (!hasFiles(event.dataTransfer)) {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    setTarget('');
    const folder = folderUnder(event.target);
    if (folder) {
      void readDrop(event.dataTransfer).then((dropped) => model.upload(folder, dropped));
    }
  };

  const replace = async (name: string): Promise<boolean> => {
    const answer = await showDialog({
      title: `Replace “${shown(name)}”?`,
      body: `There is a file “${shown(name)}” already. What is in it now stays in the volume’s history.`,
      buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: 'Replace' })],
    });
    return answer.button.accept;
  };

  const edits = (row: Row) => ({
    problem: editProblem,
    onType: () => setEditProblem(''),
    onCancel: () => {
      tree.startNaming(null);
      model.startRenaming('');
      focus();
    },
    onCommit: async (name: string) => {
      const problem =
        row.kind !== 'new'
          ? await model.rename(row, name, replace)
          : row.place.volume
            ? await model.createFolder(row.place, name)
            : await model.createVolume(name);
      setEditProblem(problem);
      const done = !problem && model.renaming === '' && tree.naming === null;
      if (done) {
        focus();
      }
      return done;
    },
  });

  const [first, last] = inSight(tops, scroll, size.height, BEYOND);
  const drawn: number[] = [];
  for (let at = first; at < last && at < rows.length; at++) {
    drawn.push(at);
  }
  if (selectedAt >= 0 && (selectedAt < first || selectedAt >= last)) {
    // Who reads the page with a screen reader is there.
    drawn.push(selectedAt);
  }

  return (
    <div
      ref={view}
      className="jp-skylift-volumes-tree"
      role="tree"
      aria-label="Volumes and their files"
      tabIndex={0}
      aria-activedescendant={selectedAt >= 0 ? idOf(rows[selectedAt].key) : undefined}
      onScroll={(event) => setScroll(event.currentTarget.scrollTop)}
      onKeyDown={onKeyDown}
      onFocus={(event) => {
        if (event.target === view.current && !tree.selected && rows.length) {
          tree.select(rows[0].key);
        }
      }}
      onContextMenu={(event) => {
        if (event.target instanceof HTMLInputElement || event.shiftKey) {
          return;
        }
        event.preventDefault();
        event.stopPropagation();
        menuAt(rowUnder(event.target), event.clientX, event.clientY);
      }}
      onDragOver={onDragOver}
      onDragLeave={(event) => {
        if (
          !(event.relatedTarget instanceof Node) ||
          !event.currentTarget.contains(event.relatedTarget)
        ) {
          setTarget('');
        }
      }}
      onDrop={onDrop}
    >
      <div className="jp-skylift-volumes-lines" style={{ height: tops[rows.length] }}>
        {drawn.map((at) => {
          const row = rows[at];
          return (
            <TreeRow
              key={row.key}
              id={idOf(row.key)}
              row={row}
              index={at}
              top={tops[at]}
              height={tops[at + 1] - tops[at]}
              selected={at === selectedAt}
              dropTarget={row.key === target && target !== ''}
              icon={
                row.kind === 'file' || row.kind === 'link' ? fileIconOf(app, row.name) : undefined
              }
              edit={row.kind === 'new' || row.key === model.renaming ? edits(row) : undefined}
              onSelect={() => {
                tree.select(row.key);
                focus();
              }}
              onToggle={() => toggle(row)}
              onActivate={() => activate(row)}
              onMenu={(x, y) => menuAt(row, x, y)}
              onDragStart={(event) => startFileDrag(event.nativeEvent, row)}
              onDismiss={() => {
                if (row.unread) {
                  tree.collapse(keyOf(row.place));
                } else {
                  tree.complain(row.place, '');
                }
                focus();
              }}
              onAgain={() => void tree.load(row.place)}
            />
          );
        })}
      </div>
    </div>
  );
}

function fileIconOf(app: JupyterFrontEnd, name: string) {
  const types = app.docRegistry.getFileTypesForPath(name);
  return types.find((type) => type.icon)?.icon;
}
