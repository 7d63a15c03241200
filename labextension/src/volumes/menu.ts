/** The menu of a line of the tree. */
import { Menu } from '@lumino/widgets';
import type { CommandRegistry } from '@lumino/commands';
import { VolumeCommands as Commands } from './commands';
import type { Row } from './tree-rows';

/** What can be done with a line, in groups. */
export function menuOf(row: Row | undefined): string[][] {
  if (!row) {
    return [[Commands.newVolume]];
  }
  const older = row.place.version !== null;
  if (row.kind === 'volume') {
    return older
      ? [[Commands.restore, Commands.closeVersion], [Commands.insertCode]]
      : [
          [Commands.upload, Commands.uploadFolder, Commands.newFolder],
          [Commands.insertCode, Commands.copyPath],
          [Commands.history, Commands.refresh],
          [Commands.rename, Commands.remove],
        ];
  }
  if (row.kind === 'dir') {
    return older
      ? [[Commands.insertCode, Commands.copyPath]]
      : [
          [Commands.upload, Commands.uploadFolder, Commands.newFolder],
          [Commands.insertCode, Commands.copyPath],
          [Commands.rename, Commands.remove],
        ];
  }
  return [
    [Commands.open, Commands.download],
    [Commands.insertCode, Commands.copyPath],
    ...(older ? [] : [[Commands.rename, Commands.remove]]),
  ];
}

/** Show it at a place of the page. */
export function openMenu(
  commands: CommandRegistry,
  row: Row | undefined,
  x: number,
  y: number,
): void {
  const menu = new Menu({ commands });
  menu.addClass('jp-skylift-volumes-menu');
  menuOf(row).forEach((group, at) => {
    if (at) {
      menu.addItem({ type: 'separator' });
    }
    for (const command of group) {
      menu.addItem({ command });
    }
  });
  // Its command runs after it has closed.
  menu.aboutToClose.connect(() => {
    setTimeout(() => menu.dispose(), 0);
  });
  menu.open(x, y);
}
