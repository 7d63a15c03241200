/** A file of a volume, to look at. */
import * as React from 'react';
import { useCallback, useEffect, useRef, useState } from 'react';
import { MainAreaWidget, ReactWidget } from '@jupyterlab/apputils';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { fileIcon } from '@jupyterlab/ui-components';
import type { LabIcon } from '@jupyterlab/ui-components';
import { CsvTable } from './csv-table';
import { parseTable } from './csv';
import type { Table } from './csv';
import { bytes as formatBytes, clock as formatTime } from '../ui/formats';
import type { Entry } from './api';
import type { VolumesModel } from './model';
import { baseName, shown } from './names';
import { NotebookPreview } from './notebook-preview';
import { notebookOf } from './notebook-text';
import type { NotebookText } from './notebook-text';
import { LARGEST_IMAGE, MOST_ROWS, READ, decodeText, previewKind } from './preview-kind';
import { keyOf } from './tree-rows';
import type { Place } from './tree-rows';

/** What can be done from a preview. */
export interface PreviewActions {
  download(place: Place): void;
  insertCode(place: Place): void;
  copyPath(place: Place): void;
}

/** Make one. */
export function previewWidget(
  model: VolumesModel,
  place: Place,
  rendermime: IRenderMimeRegistry | null,
  actions: PreviewActions,
  icon: LabIcon | undefined,
): MainAreaWidget<ReactWidget> {
  const content = ReactWidget.create(
    <Preview model={model} place={place} rendermime={rendermime} actions={actions} />,
  );
  content.addClass('jp-skylift-preview');
  const widget = new MainAreaWidget({ content });
  widget.id = `jp-skylift-preview-${keyOf(place)}`;
  const version = place.version === null ? '' : ` (version ${place.version})`;
  widget.title.label = shown(baseName(place.path)) + version;
  widget.title.caption = `${shown(place.path)} in volume ${place.volume}${version}`;
  widget.title.icon = icon ?? fileIcon;
  widget.title.closable = true;
  widget.toolbar.hide();
  return widget;
}

type Content =
  | { kind: 'loading' }
  | { kind: 'image' }
  | { kind: 'table'; table: Table }
  | { kind: 'notebook'; notebook: NotebookText }
  | { kind: 'text'; text: string; encoding: string }
  | { kind: 'note'; text: string; load?: boolean }
  | { kind: 'problem'; text: string };

interface Loaded {
  content: Content;
  entry: Entry | null;
  /** It is more than what is shown. */
  cut: string;
}

interface IPreviewProps {
  model: VolumesModel;
  place: Place;
  rendermime: IRenderMimeRegistry | null;
  actions: PreviewActions;
}

function Preview({ model, place, rendermime, actions }: IPreviewProps): React.ReactElement {
  const [loaded, setLoaded] = useState<Loaded>({
    content: { kind: 'loading' },
    entry: null,
    cut: '',
  });
  const [news, setNews] = useState('');
  const [count, setCount] = useState(0);
  const anyway = useRef(false);
  const again = useCallback(() => {
    setNews('');
    setCount((before) => before + 1);
  }, []);

  useEffect(() => {
    const stop = new AbortController();
    setLoaded((before) => ({
      ...before,
      content: before.entry ? before.content : { kind: 'loading' },
    }));
    load(model, place, anyway.current, stop.signal)
      .then(setLoaded)
      .catch((error: unknown) => {
        if (!stop.signal.aborted) {
          const text = error instanceof Error ? error.message : String(error);
          setLoaded({ content: { kind: 'problem', text }, entry: null, cut: '' });
        }
      });
    return () => stop.abort();
  }, [model, place, count]);

  // It says so when the file was changed by somebody else; what is looked at does not change by itself.
  const seen = loaded.entry;
  useEffect(() => {
    if (place.version !== null || !seen) {
      return;
    }
    let known = model.info(place.volume)?.version;
    let gone = false;
    const heard = async () => {
      const info = model.info(place.volume);
      if (info?.version === known) {
        return;
      }
      known = info?.version;
      if (!info) {
        setNews(`Volume ${place.volume} is no longer there. This is what the file was.`);
        return;
      }
      try {
        const now = await model.api.stat(place.volume, place.path);
        if (!gone) {
          setNews(
            now === null
              ? 'This file is no longer in the volume. This is what it was; earlier versions still have it.'
              : now.size !== seen.size || now.mtime !== seen.mtime
                ? 'This file has been changed in the volume.'
                : '',
          );
        }
      } catch {
        // The next change, or the link's own message, says more.
      }
    };
    const listen = () => void heard();
    model.tree.changed.connect(listen);
    return () => {
      gone = true;
      model.tree.changed.disconnect(listen);
    };
  }, [model, place, seen]);

  const { content, entry } = loaded;
  const parts = place.path.split('/');
  return (
    <div
      className="jp-skylift-preview-box"
      data-volume={place.volume}
      data-path={place.path}
      data-kind={content.kind}
    >
      <div className="jp-skylift-preview-head">
        <div className="jp-skylift-preview-where">
          <span className="jp-skylift-preview-path">
            {[place.volume, ...parts].map((part, at) => (
              <React.Fragment key={at}>
                {at > 0 && <span className="jp-skylift-preview-slash">/</span>}
                <span className={at === parts.length ? 'jp-skylift-preview-name' : undefined}>
                  {shown(part)}
                </span>
              </React.Fragment>
            ))}
          </span>
          <span className="jp-skylift-preview-facts">
            {place.version !== null && <strong>version {place.version} · </strong>}
            {entry && `${formatBytes(entry.size)} · ${formatTime(entry.mtime)}`}
            {loaded.cut && ` · ${loaded.cut}`}
          </span>
        </div>
        <div className="jp-skylift-preview-actions">
          <button
            type="button"
            className="jp-skylift-button"
            onClick={() => actions.insertCode(place)}
          >
            Insert code
          </button>
          <button
            type="button"
            className="jp-skylift-button"
            onClick={() => actions.copyPath(place)}
          >
            Copy path
          </button>
          <button
            type="button"
            className="jp-skylift-button"
            onClick={() => actions.download(place)}
          >
            Download
          </button>
        </div>
      </div>
      {news && (
        <div className="jp-skylift-preview-news" role="status">
          <span>{news}</span>
          {news.startsWith('This file has been changed') && (
            <button type="button" className="jp-skylift-button" onClick={again}>
              Show the newest
            </button>
          )}
        </div>
      )}
      <div
        className="jp-skylift-preview-body"
        tabIndex={0}
        role="region"
        aria-label={`What is in ${shown(baseName(place.path))}`}
      >
        {content.kind === 'loading' && <p className="jp-skylift-preview-note">Loading…</p>}
        {content.kind === 'image' && (
          <Picture
            url={`${model.api.fileUrl(place.volume, place.path, place.version)}&shown=${count}-${entry?.mtime ?? 0}`}
            name={shown(baseName(place.path))}
          />
        )}
        {content.kind === 'table' && <CsvTable table={content.table} />}
        {content.kind === 'notebook' && (
          <NotebookPreview notebook={content.notebook} rendermime={rendermime} />
        )}
        {content.kind === 'text' && (
          <>
            {content.encoding !== 'UTF-8' && (
              <p className="jp-skylift-preview-note">Not UTF-8: shown as {content.encoding}.</p>
            )}
            {content.text ? (
              <pre className="jp-skylift-preview-text">{content.text}</pre>
            ) : (
              <p className="jp-skylift-preview-note">The file is empty.</p>
            )}
          </>
        )}
        {content.kind === 'note' && (
          <div className="jp-skylift-preview-note">
            <p>{content.text}</p>
            {content.load && (
              <button
                type="button"
                className="jp-skylift-button"
                onClick={() => {
                  anyway.current = true;
                  again();
                }}
              >
                Show it anyway
              </button>
            )}
          </div>
        )}
        {content.kind === 'problem' && (
          <div className="jp-skylift-preview-note" role="alert">
            <p>{content.text}</p>
            <button type="button" className="jp-skylift-button" onClick={again}>
              Try again
            </button>
          </div>
        )}
      </div>
    </div>
  );
}

function Picture({ url, name }: { url: string; name: string }): React.ReactElement {
  const [failed, setFailed] = useState(false);
  const [whole, setWhole] = useState(false);
  const [pixels, setPixels] = useState('');
  if (failed) {
    return (
      <p className="jp-skylift-preview-note" role="alert">
        The browser cannot show this image: it may be damaged, or of a kind that it does not know.
        Download it instead.
      </p>
    );
  }
  return (
    <figure className="jp-skylift-preview-figure">
      <button
        type="button"
        className="jp-skylift-preview-picture"
        aria-pressed={whole}
        title={whole ? 'Fit it to the window' : 'Show it in its own size'}
        onClick={() => setWhole(!whole)}
      >
        <img
          src={url}
          alt={name}
          data-whole={whole || undefined}
          onError={() => setFailed(true)}
          onLoad={(event) =>
            setPixels(`${event.currentTarget.naturalWidth} × ${event.currentTarget.naturalHeight}`)
          }
        />
      </button>
      {pixels && <figcaption>{pixels}</figcaption>}
    </figure>
  );
}

/** Read a file as far as it is shown. */
async function load(
  model: VolumesModel,
  place: Place,
  anyway: boolean,
  signal: AbortSignal,
): Promise<Loaded> {
  const entry = await model.api.stat(place.volume, place.path, place.version);
  if (!entry) {
    const text =
      'This file is no longer in the volume. Earlier versions may have it: see the volume’s history.';
    return { content: { kind: 'problem', text }, entry: null, cut: '' };
  }
  if (entry.kind === 'dir') {
    return { content: { kind: 'note', text: 'This is a folder now.' }, entry, cut: '' };
  }
  const kind = previewKind(baseName(place.path));
  if (kind === 'image') {
    if (entry.size > LARGEST_IMAGE && !anyway) {
      const text = `This image has ${formatBytes(entry.size)}, which takes a while to load.`;
      return { content: { kind: 'note', text, load: true }, entry, cut: '' };
    }
    return { content: { kind: 'image' }, entry, cut: '' };
  }
  if (kind === 'notebook' && entry.size > READ.notebook) {
    const text = `This notebook has ${formatBytes(entry.size)}: too much to be shown here. Download it instead.`;
    return { content: { kind: 'note', text }, entry, cut: '' };
  }
  if (entry.size === 0 && entry.kind === 'file') {
    return { content: { kind: 'text', text: '', encoding: 'UTF-8' }, entry, cut: '' };
  }
  const { bytes, size } = await model.api.read(
    place.volume,
    place.path,
    place.version,
    READ[kind],
    signal,
  );
  const isCut = bytes.length < size;
  const decoded = decodeText(bytes, isCut);
  if (!decoded) {
    const text =
      `There is no preview of this kind of file (${formatBytes(size)}, not text). ` +
      'Download it, or open it in a cell: “Insert code” writes how.';
    return { content: { kind: 'note', text }, entry, cut: '' };
  }
  if (kind === 'table') {
    const delimiter = place.path.toLowerCase().endsWith('.tsv') ? '\t' : undefined;
    const table = parseTable(decoded.text, { delimiter, most: MOST_ROWS, cut: isCut });
    if (table.header.length) {
      const cut = table.more
        ? `the first ${table.rows.length.toLocaleString('en')} rows`
        : `${table.rows.length.toLocaleString('en')} rows`;
      return { content: { kind: 'table', table }, entry, cut };
    }
  }
  if (kind === 'notebook') {
    const notebook = notebookOf(decoded.text);
    if (notebook) {
      return { content: { kind: 'notebook', notebook }, entry, cut: '' };
    }
  }
  const cut = isCut ? `the first ${formatBytes(bytes.length)}` : '';
  return { content: { kind: 'text', ...decoded }, entry, cut };
}
