/** The section “Volumes” of the sidebar. */
import * as React from 'react';
import { useEffect, useRef, useState } from 'react';
import {
  ToolbarButtonComponent,
  addIcon,
  fileUploadIcon,
  newFolderIcon,
} from '@jupyterlab/ui-components';
import type { ISectionProps } from '../sidebar/section';
import { useList } from '../ui/hooks';
import type { VolumeInfo } from './api';
import { VolumeCommands } from './commands';
import { hasFiles } from './dropped';
import { VolumesModel } from './model';
import { VolumeTreeView } from './tree-view';
import { UploadList } from './upload-list';
import { useSignal } from './use-signal';

export function VolumesSection({ gateway, app }: ISectionProps): React.ReactElement {
  const model = VolumesModel.of(gateway);
  const { rows, problem } = useList<VolumeInfo>(gateway, 'volumes');
  const [said, setSaid] = useState('');
  const box = useRef<HTMLDivElement>(null);
  useSignal(model.tree.changed);

  useEffect(() => {
    if (rows) {
      model.tree.setVolumes(rows);
    }
  }, [model, rows]);

  useEffect(() => {
    const heard = (_: unknown, text: string) => setSaid(text);
    model.said.connect(heard);
    return () => {
      model.said.disconnect(heard);
    };
  }, [model]);

  const volumes = model.tree.volumes;
  const empty = volumes !== null && volumes.length === 0 && !model.tree.naming;
  return (
    <div
      ref={box}
      className="jp-skylift-volumes"
      onDragOver={(event) => {
        // What misses the tree must not be opened by the browser.
        if (hasFiles(event.dataTransfer)) {
          event.preventDefault();
          event.dataTransfer.dropEffect = 'none';
        }
      }}
      onDrop={(event) => {
        if (hasFiles(event.dataTransfer)) {
          event.preventDefault();
        }
      }}
    >
      {problem && (
        <div className="jp-skylift-volumes-banner" role="alert">
          {problem}
        </div>
      )}
      {volumes === null ? (
        !problem && <p className="jp-skylift-volumes-empty">Loading…</p>
      ) : empty ? (
        <div className="jp-skylift-volumes-empty">
          <p>
            No volumes yet. A volume is a folder that cells, functions and notebooks share, and that
            keeps every version of itself.
          </p>
          <p>
            <button
              type="button"
              className="jp-skylift-button"
              onClick={() => void app.commands.execute(VolumeCommands.newVolume)}
            >
              New volume
            </button>
          </p>
          <p>
            <code>%%gpu --volume data:/data</code> above a cell makes one too.
          </p>
        </div>
      ) : (
        <VolumeTreeView model={model} app={app} />
      )}
      <UploadList model={model} />
      <div className="jp-skylift-hidden" role="status" aria-live="polite">
        {said}
      </div>
    </div>
  );
}

export function VolumesToolbar({ gateway, app }: ISectionProps): React.ReactElement {
  const model = VolumesModel.of(gateway);
  useSignal(model.tree.changed);
  const button = (command: string, icon: typeof addIcon, label: string) => (
    <ToolbarButtonComponent
      key={command}
      icon={icon}
      tooltip={label}
      enabled={app.commands.isEnabled(command)}
      onClick={() => void app.commands.execute(command)}
    />
  );
  return (
    <>
      {button(VolumeCommands.newVolume, addIcon, 'New volume')}
      {button(VolumeCommands.newFolder, newFolderIcon, 'New folder')}
      {button(VolumeCommands.upload, fileUploadIcon, 'Upload files')}
    </>
  );
}
