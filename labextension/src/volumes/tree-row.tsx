/** One line of the tree of volumes. */
import * as React from 'react';
import type { LabIcon } from '@jupyterlab/ui-components';
import {
  caretDownIcon,
  caretRightIcon,
  ellipsesIcon,
  fileIcon,
  folderIcon,
  historyIcon,
} from '@jupyterlab/ui-components';
import { bytes as formatBytes, clock as formatTime } from '../ui/formats';
import { volumeIcon } from './icons';
import { NameInput } from './name-input';
import { shown } from './names';
import { placeName } from './tree-rows';
import type { Row } from './tree-rows';

export interface ITreeRowProps {
  id: string;
  row: Row;
  /** Which line of the tree it is. */
  index: number;
  top: number;
  height: number;
  selected: boolean;
  dropTarget: boolean;
  icon?: LabIcon;
  edit?: {
    problem: string;
    onType: () => void;
    onCommit: (name: string) => Promise<boolean>;
    onCancel: () => void;
  };
  onSelect: () => void;
  onToggle: () => void;
  onActivate: () => void;
  onMenu: (x: number, y: number) => void;
  onDragStart: (event: React.DragEvent) => void;
  onDismiss: () => void;
  onAgain: () => void;
}

export function TreeRow(props: ITreeRowProps): React.ReactElement {
  const { row, edit } = props;
  const opens = row.expanded !== undefined;
  const draggable =
    row.kind === 'file' || row.kind === 'dir' || row.kind === 'link' || row.kind === 'volume';
  const older = row.place.version !== null;
  return (
    <div
      id={props.id}
      role="treeitem"
      className={`jp-skylift-volumes-row jp-skylift-volumes-${row.kind}`}
      aria-level={row.level}
      aria-setsize={row.setSize}
      aria-posinset={row.position}
      aria-expanded={row.expanded}
      aria-selected={props.selected}
      aria-busy={row.loading || undefined}
      aria-label={edit ? undefined : labelOf(row)}
      data-row={props.index}
      data-kind={row.kind}
      data-volume={row.place.volume}
      data-path={row.place.path}
      data-version={row.place.version ?? undefined}
      data-drop={props.dropTarget || undefined}
      data-older={older || undefined}
      draggable={draggable && !edit}
      style={{ top: props.top, height: props.height, paddingLeft: 4 + (row.level - 1) * 14 }}
      title={edit ? undefined : hintOf(row)}
      onMouseDown={(event) => {
        if (event.target instanceof Element && event.target.closest('button, input')) {
          return;
        }
        if (event.button === 0) {
          props.onSelect();
        }
      }}
      onClick={(event) => {
        if (!(event.target instanceof Element && event.target.closest('button, input')) && !edit) {
          props.onActivate();
        }
      }}
      onDragStart={props.onDragStart}
    >
      {row.kind === 'problem' ? (
        <Problem {...props} />
      ) : row.kind === 'note' ? (
        <span className="jp-skylift-volumes-text">{row.text}</span>
      ) : (
        <>
          <span className="jp-skylift-volumes-caret" aria-hidden="true">
            {opens &&
              (row.expanded ? (
                <caretDownIcon.react tag="span" />
              ) : (
                <caretRightIcon.react tag="span" />
              ))}
          </span>
          <Icon {...props} />
          {edit ? (
            <span className="jp-skylift-volumes-edit">
              <NameInput
                label={inputLabel(row)}
                placeholder={
                  row.kind === 'new'
                    ? row.place.volume
                      ? 'name of the folder'
                      : 'name of the volume'
                    : ''
                }
                value={row.kind === 'new' ? '' : row.name}
                file={row.kind === 'file'}
                {...edit}
              />
              {edit.problem && (
                <span role="alert" className="jp-skylift-volumes-edit-problem">
                  {edit.problem}
                </span>
              )}
            </span>
          ) : (
            <>
              <span className="jp-skylift-volumes-label">
                {shown(row.name)}
                {row.kind === 'link' && (
                  <span className="jp-skylift-volumes-target">
                    {' '}
                    → {shown(row.entry?.target ?? '')}
                  </span>
                )}
                {older && row.kind === 'volume' && (
                  <span className="jp-skylift-volumes-version"> version {row.place.version}</span>
                )}
              </span>
              <span className="jp-skylift-volumes-size">{sizeOf(row)}</span>
              <button
                type="button"
                className="jp-skylift-volumes-more"
                tabIndex={-1}
                aria-label={`Actions for ${placeName(row.place)}`}
                title="Actions"
                onClick={(event) => {
                  const box = event.currentTarget.getBoundingClientRect();
                  props.onMenu(box.left, box.bottom);
                }}
              >
                <ellipsesIcon.react tag="span" />
              </button>
            </>
          )}
        </>
      )}
    </div>
  );
}

function Problem(props: ITreeRowProps): React.ReactElement {
  return (
    <div className="jp-skylift-volumes-problem-box">
      <span role="alert" className="jp-skylift-volumes-text">
        {props.row.text}
      </span>
      <span className="jp-skylift-volumes-problem-actions">
        {props.row.unread && (
          <button type="button" onClick={props.onAgain}>
            Try again
          </button>
        )}
        <button type="button" onClick={props.onDismiss}>
          Dismiss
        </button>
      </span>
    </div>
  );
}

function Icon({ row, icon }: ITreeRowProps): React.ReactElement {
  const older = row.place.version !== null;
  const Shown =
    row.kind === 'volume'
      ? older
        ? historyIcon
        : volumeIcon
      : row.kind === 'dir' || (row.kind === 'new' && row.place.volume)
        ? folderIcon
        : row.kind === 'new'
          ? volumeIcon
          : (icon ?? fileIcon);
  return <Shown.react tag="span" className="jp-skylift-volumes-icon" aria-hidden="true" />;
}

function sizeOf(row: Row): string {
  if (row.kind === 'volume') {
    return row.info && row.place.version === null ? formatBytes(row.info.size) : '';
  }
  return row.kind === 'link' ? '' : formatBytes(row.entry?.size ?? 0);
}

function labelOf(row: Row): string {
  if (row.kind === 'note' || row.kind === 'problem') {
    return row.text ?? '';
  }
  const kind = { volume: 'volume', dir: 'folder', file: 'file', link: 'link', new: '' }[row.kind];
  const version = row.place.version === null ? '' : `, version ${row.place.version}`;
  const size = sizeOf(row);
  return `${shown(row.name)}, ${kind}${version}${size ? `, ${size}` : ''}`;
}

function hintOf(row: Row): string {
  const name = shown(row.place.path || row.place.volume);
  if (row.kind === 'volume' && row.info) {
    const { info } = row;
    return row.place.version === null
      ? `${name}\n${count(info.files, 'file')}, ${formatBytes(info.size)}\nversion ${info.version}, ${formatTime(info.changed)}`
      : `${name} as it was in version ${row.place.version}. It can be looked at, not changed.`;
  }
  const { entry } = row;
  if (!entry) {
    return '';
  }
  if (entry.kind === 'link') {
    return `${name}\nleads to ${shown(entry.target)}`;
  }
  const size = formatBytes(entry.size);
  const what = entry.kind === 'dir' ? `${count(entry.files, 'file')}, ${size}` : size;
  return `${name}\n${what}\n${formatTime(entry.mtime)}`;
}

function inputLabel(row: Row): string {
  if (row.kind === 'new') {
    return row.place.volume ? 'Name of the new folder' : 'Name of the new volume';
  }
  return `New name for ${shown(row.name)}`;
}

function count(number: number, what: string): string {
  return `${number.toLocaleString('en')} ${what}${number === 1 ? '' : 's'}`;
}
