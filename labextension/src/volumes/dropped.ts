/** What was dropped from the desktop, or chosen, as files with their paths. */
import { joinPath } from './names';

/** A file, and where it is to be below the folder that it was dropped on. */
export interface DroppedFile {
  path: string;
  file: File;
}

/** What was dropped. */
export interface Dropped {
  files: DroppedFile[];
  /** Folders without anything in them. */
  emptyFolders: string[];
  /** What could not be read, in words. */
  problems: string[];
}

/** Whether a drag has files of the desktop. */
export function hasFiles(transfer: DataTransfer | null): boolean {
  return transfer !== null && Array.from(transfer.types).includes('Files');
}

/** Reads a drop. It has to be called in the event itself, since the browser forgets it afterwards. */
export function readDrop(transfer: DataTransfer): Promise<Dropped> {
  const entries: FileSystemEntry[] = [];
  const files: File[] = [];
  for (const item of Array.from(transfer.items)) {
    if (item.kind !== 'file') {
      continue;
    }
    const entry = item.webkitGetAsEntry?.() ?? null;
    const file = item.getAsFile();
    // A plain file is there at once; only folders have to be read.
    if (entry?.isDirectory) {
      entries.push(entry);
    } else if (file) {
      files.push(file);
    }
  }
  if (!transfer.items.length) {
    files.push(...Array.from(transfer.files));
  }
  return readEntries(entries, files);
}

/** Files that were chosen in the browser's dialog. */
export function readChosen(list: FileList | readonly File[]): DroppedFile[] {
  return Array.from(list).map((file) => ({ path: file.webkitRelativePath || file.name, file }));
}

async function readEntries(
  entries: readonly FileSystemEntry[],
  files: readonly File[],
): Promise<Dropped> {
  const dropped: Dropped = {
    files: files.map((file) => ({ path: file.name, file })),
    emptyFolders: [],
    problems: [],
  };
  for (const entry of entries) {
    await readFolder(entry as FileSystemDirectoryEntry, entry.name, dropped);
  }
  return dropped;
}

async function readFolder(
  folder: FileSystemDirectoryEntry,
  path: string,
  dropped: Dropped,
): Promise<void> {
  const reader = folder.createReader();
  let empty = true;
  for (;;) {
    let some: FileSystemEntry[];
    try {
      // Browsers give a hundred at a time.
      some = await new Promise<FileSystemEntry[]>((resolve, reject) =>
        reader.readEntries(resolve, reject),
      );
    } catch {
      dropped.problems.push(`The folder “${path}” could not be read on this computer.`);
      return;
    }
    if (!some.length) {
      break;
    }
    empty = false;
    for (const entry of some) {
      const below = joinPath(path, entry.name);
      if (entry.isDirectory) {
        await readFolder(entry as FileSystemDirectoryEntry, below, dropped);
        continue;
      }
      try {
        const file = await new Promise<File>((resolve, reject) =>
          (entry as FileSystemFileEntry).file(resolve, reject),
        );
        dropped.files.push({ path: below, file });
      } catch {
        dropped.problems.push(`“${below}” could not be read on this computer.`);
      }
    }
  }
  if (empty) {
    dropped.emptyFolders.push(path);
  }
}
