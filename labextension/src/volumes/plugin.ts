/** What can be done with volumes, as commands, and the widgets in which they are looked at. */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ILabShell } from '@jupyterlab/application';
import { Clipboard, Dialog, ICommandPalette, Notification, showDialog } from '@jupyterlab/apputils';
import type { MainAreaWidget } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import {
  copyIcon,
  deleteIcon,
  downloadIcon,
  editIcon,
  fileUploadIcon,
  historyIcon,
  newFolderIcon,
  refreshIcon,
  undoIcon,
} from '@jupyterlab/ui-components';
import { ISkylift } from '../tokens';
import type { Entry } from './api';
import { VolumeCommands as Commands } from './commands';
import { readChosen } from './dropped';
import { acceptFileDrags, insertIntoActive, targetOf } from './file-drag';
import { bytes as formatBytes } from '../ui/formats';
import { historyWidget, restoreAsked } from './history-widget';
import { volumeIcon } from './icons';
import { VolumesModel } from './model';
import { baseName, shown } from './names';
import { previewWidget } from './preview-widget';
import { folderOf, keyOf } from './tree-rows';
import type { Place, Row } from './tree-rows';

const TREE = '.jp-skylift-volumes-tree';

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'skylift:volumes',
  description: 'Volumes: their commands, previews and history.',
  autoStart: true,
  requires: [ISkylift],
  optional: [ILabShell, INotebookTracker, IRenderMimeRegistry, ICommandPalette],
  activate: (
    app: JupyterFrontEnd,
    skylift: ISkylift,
    labShell: ILabShell | null,
    notebooks: INotebookTracker | null,
    rendermime: IRenderMimeRegistry | null,
    palette: ICommandPalette | null,
  ) => {
    const model = VolumesModel.of(skylift.gateway);
    const open = opener(app, labShell);

    const download = (place: Place) => {
      const link = document.createElement('a');
      link.href = model.api.fileUrl(place.volume, place.path, place.version, true);
      // The server's answer has the name; this one is for names that are no text.
      link.download = shown(baseName(place.path));
      link.click();
    };
    const insertCode = (row: Row) => {
      const target = targetOf(row);
      const problem = target ? insertIntoActive(notebooks, target) : '';
      if (problem) {
        Notification.warning(problem, { autoClose: 6000 });
      }
    };
    const copyPath = (place: Place) => {
      const path = place.path || place.volume;
      Clipboard.copyToSystem(path);
      model.say(`Copied ${shown(path)}.`);
    };
    const rowOf = (place: Place, entry?: Entry): Row => ({
      key: keyOf(place),
      kind: entry?.kind ?? 'file',
      place,
      name: place.path,
      level: 2,
      setSize: 1,
      position: 1,
    });
    const preview = (place: Place) =>
      open(`jp-skylift-preview-${keyOf(place)}`, () => {
        const icon = app.docRegistry
          .getFileTypesForPath(place.path)
          .find((type) => type.icon)?.icon;
        const actions = { download, copyPath, insertCode: (at: Place) => insertCode(rowOf(at)) };
        return previewWidget(model, place, rendermime, actions, icon);
      });
    const look = (volume: string, version: number) => {
      skylift.showSection('volumes');
      model.tree.look(volume, version);
      document.querySelector<HTMLElement>(TREE)?.focus();
    };

    const selected = () => model.selected;
    const now = () => {
      const row = selected();
      return row && row.place.version === null ? row : undefined;
    };
    const folder = (): Place | null => {
      const row = now();
      if (row) {
        return folderOf(row);
      }
      const { volumes } = model.tree;
      return volumes?.length === 1 ? { volume: volumes[0].name, version: null, path: '' } : null;
    };
    const isFile = (row?: Row) => row?.kind === 'file' || row?.kind === 'link';
    const isOlder = (row?: Row) => row !== undefined && row.place.version !== null;
    const choose = (folders: boolean) => {
      const into = folder();
      if (into) {
        chooseFiles(folders, (files) => void model.upload(into, readChosen(files)));
      }
    };

    const { commands } = app;
    commands.addCommand(Commands.open, {
      label: 'Preview',
      isEnabled: () => isFile(selected()),
      execute: () => {
        const row = selected();
        if (row && isFile(row)) {
          preview(row.place);
        }
      },
    });
    commands.addCommand(Commands.newVolume, {
      label: 'New Volume…',
      icon: volumeIcon,
      execute: () => {
        skylift.showSection('volumes');
        model.tree.startNaming({ volume: '', version: null, path: '' });
      },
    });
    commands.addCommand(Commands.newFolder, {
      label: 'New Folder…',
      icon: newFolderIcon,
      isEnabled: () => folder() !== null,
      execute: () => model.tree.startNaming(folder()),
    });
    commands.addCommand(Commands.upload, {
      label: 'Upload Files…',
      icon: fileUploadIcon,
      isEnabled: () => folder() !== null,
      execute: () => choose(false),
    });
    commands.addCommand(Commands.uploadFolder, {
      label: 'Upload a Folder…',
      icon: fileUploadIcon,
      isEnabled: () => folder() !== null,
      execute: () => choose(true),
    });
    commands.addCommand(Commands.download, {
      label: 'Download',
      icon: downloadIcon,
      isEnabled: () => isFile(selected()),
      execute: () => {
        const row = selected();
        if (row && isFile(row)) {
          download(row.place);
        }
      },
    });
    commands.addCommand(Commands.insertCode, {
      label: 'Insert Code That Opens It',
      isEnabled: () => selected() !== undefined,
      execute: () => {
        const row = selected();
        if (row) {
          insertCode(row);
        }
      },
    });
    commands.addCommand(Commands.copyPath, {
      label: 'Copy Path',
      icon: copyIcon,
      isEnabled: () => selected() !== undefined,
      execute: () => {
        const row = selected();
        if (row) {
          copyPath(row.place);
        }
      },
    });
    commands.addCommand(Commands.rename, {
      label: 'Rename',
      icon: editIcon,
      isEnabled: () => now() !== undefined,
      execute: () => {
        const row = now();
        if (row) {
          model.startRenaming(row.key);
        }
      },
    });
    commands.addCommand(Commands.remove, {
      label: 'Delete…',
      icon: deleteIcon,
      isEnabled: () => now() !== undefined,
      execute: async () => {
        const row = now();
        if (row && (await deletionAsked(model, row))) {
          await model.remove(row);
        }
        document.querySelector<HTMLElement>(TREE)?.focus();
      },
    });
    commands.addCommand(Commands.history, {
      label: 'History',
      icon: historyIcon,
      isEnabled: () => selected() !== undefined,
      execute: () => {
        const row = selected();
        if (row) {
          const { volume } = row.place;
          open(`jp-skylift-history-${volume}`, () => historyWidget(model, volume, look));
        }
      },
    });
    commands.addCommand(Commands.restore, {
      label: 'Restore This Version…',
      icon: undoIcon,
      isEnabled: () => isOlder(selected()),
      execute: async () => {
        const row = selected();
        if (row && row.place.version !== null) {
          model.tree.complain(
            row.place,
            await restoreAsked(model, row.place.volume, row.place.version),
          );
        }
      },
    });
    commands.addCommand(Commands.closeVersion, {
      label: 'Close This Version',
      isEnabled: () => isOlder(selected()),
      execute: () => {
        const row = selected();
        if (row) {
          model.tree.close(row.place);
        }
      },
    });
    commands.addCommand(Commands.refresh, {
      label: 'Read Again',
      icon: refreshIcon,
      isEnabled: () => now() !== undefined,
      execute: () => {
        const row = now();
        if (row) {
          model.tree.refresh(row.place.volume);
        }
      },
    });

    const focused = `${TREE}:focus`;
    commands.addKeyBinding({ command: Commands.rename, keys: ['F2'], selector: focused });
    commands.addKeyBinding({ command: Commands.remove, keys: ['Delete'], selector: focused });
    commands.addKeyBinding({
      command: Commands.insertCode,
      keys: ['Alt Enter'],
      selector: focused,
    });
    commands.addKeyBinding({ command: Commands.copyPath, keys: ['Accel C'], selector: focused });

    palette?.addItem({ command: Commands.newVolume, category: 'Skylift' });
    palette?.addItem({ command: Commands.upload, category: 'Skylift' });
    if (notebooks) {
      acceptFileDrags(notebooks);
    }
  },
};

/** All of this folder's plugins. */
export const volumePlugins: JupyterFrontEndPlugin<void>[] = [plugin];

/** Shows a widget, or makes it first: in the main area, or beside the notebook where that is all there is. */
function opener(app: JupyterFrontEnd, labShell: ILabShell | null) {
  const widgets = new Map<string, MainAreaWidget>();
  return (id: string, make: () => MainAreaWidget): void => {
    let widget = widgets.get(id);
    if (!widget || widget.isDisposed) {
      widget = make();
      widgets.set(id, widget);
      widget.disposed.connect(() => widgets.delete(id));
    }
    if (!widget.isAttached) {
      app.shell.add(widget, labShell ? 'main' : 'right');
    }
    app.shell.activateById(widget.id);
  };
}

/** Whether a person wants it to be gone. */
async function deletionAsked(model: VolumesModel, row: Row): Promise<boolean> {
  const name = shown(row.name);
  let body: string;
  if (row.kind === 'volume') {
    const files = row.info?.files ?? 0;
    body =
      `It has ${files.toLocaleString('en')} ${files === 1 ? 'file' : 'files'} ` +
      `(${formatBytes(row.info?.size ?? 0)}). All its versions go with it, and nothing brings them back.`;
  } else {
    const found = await model
      .current(row)
      .catch(() => ({ entry: row.entry ?? null, changed: false }));
    const entry = found.entry ?? row.entry;
    const much =
      row.kind === 'dir' && entry
        ? `It has ${entry.files.toLocaleString('en')} ${entry.files === 1 ? 'file' : 'files'} (${formatBytes(entry.size)}). `
        : '';
    const changed =
      found.changed && row.kind !== 'dir' ? 'It was changed in the volume just now. ' : '';
    body = `${changed}${much}Earlier versions of the volume keep it: its history brings it back.`;
  }
  const what = row.kind === 'volume' ? 'volume ' : row.kind === 'dir' ? 'folder ' : '';
  const answer = await showDialog({
    title: `Delete ${what}“${name}”?`,
    body,
    buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: 'Delete' })],
  });
  return answer.button.accept;
}

/** The browser's dialog for files, or for a folder. */
function chooseFiles(folders: boolean, chosen: (files: FileList) => void): void {
  const input = document.createElement('input');
  input.type = 'file';
  input.multiple = true;
  input.webkitdirectory = folders;
  input.addEventListener('change', () => {
    if (input.files?.length) {
      chosen(input.files);
    }
  });
  input.click();
}
