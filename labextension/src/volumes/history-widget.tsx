/** The versions of a volume: when, who, what has changed, and back to one of them. */
import * as React from 'react';
import { useEffect, useRef, useState } from 'react';
import { Dialog, MainAreaWidget, ReactWidget, showDialog } from '@jupyterlab/apputils';
import { historyIcon } from '@jupyterlab/ui-components';
import type { Version } from './api';
import { bytes as formatBytes, clock as formatTime } from '../ui/formats';
import type { VolumesModel } from './model';
import { shown } from './names';
import { useSignal } from './use-signal';

const PAGE = 100;

/** Make one. `look` shows a version in the tree. */
export function historyWidget(
  model: VolumesModel,
  volume: string,
  look: (volume: string, version: number) => void,
): MainAreaWidget<ReactWidget> {
  const content = ReactWidget.create(<History model={model} volume={volume} look={look} />);
  content.addClass('jp-skylift-history');
  const widget = new MainAreaWidget({ content });
  widget.id = `jp-skylift-history-${volume}`;
  widget.title.label = `History of ${volume}`;
  widget.title.caption = `Versions of volume ${volume}`;
  widget.title.icon = historyIcon;
  widget.title.closable = true;
  widget.toolbar.hide();
  return widget;
}

/** Ask, then make the volume what it was. Returns what went wrong, or "". */
export async function restoreAsked(
  model: VolumesModel,
  volume: string,
  version: number,
): Promise<string> {
  const newest = model.info(volume)?.version;
  const answer = await showDialog({
    title: `Restore version ${version} of “${volume}”?`,
    body:
      `All its files become what they were in version ${version}. ` +
      `That is a new version${newest === undefined ? '' : `, after ${newest}`}: nothing is lost, and what is there now can be restored likewise.`,
    buttons: [Dialog.cancelButton(), Dialog.okButton({ label: 'Restore' })],
  });
  if (!answer.button.accept) {
    return '';
  }
  try {
    await model.restore(volume, version);
    return '';
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

interface IHistoryProps {
  model: VolumesModel;
  volume: string;
  look: (volume: string, version: number) => void;
}

function History({ model, volume, look }: IHistoryProps): React.ReactElement {
  useSignal(model.tree.changed);
  const [versions, setVersions] = useState<Version[] | null>(null);
  const [limit, setLimit] = useState(PAGE);
  const [problem, setProblem] = useState('');
  const [problems, setProblems] = useState<Record<number, string>>({});
  const [tries, setTries] = useState(0);
  const asked = useRef(0);
  const newest = model.info(volume)?.version;
  const gone = model.tree.volumes !== null && newest === undefined;

  useEffect(() => {
    if (gone) {
      return;
    }
    const mine = ++asked.current;
    model.api
      .history(volume, limit + 1)
      .then((found) => {
        if (mine === asked.current) {
          setVersions(found);
          setProblem('');
        }
      })
      .catch((error: unknown) => {
        if (mine === asked.current) {
          setProblem(error instanceof Error ? error.message : String(error));
        }
      });
  }, [model, volume, newest, limit, gone, tries]);

  const restore = async (version: number) => {
    const wrong = await restoreAsked(model, volume, version);
    setProblems((before) => ({ ...before, [version]: wrong }));
  };

  if (gone) {
    return <p className="jp-skylift-preview-note">There is no volume “{volume}” any more.</p>;
  }
  return (
    <div className="jp-skylift-history-box" data-volume={volume}>
      <div className="jp-skylift-preview-head">
        <div className="jp-skylift-preview-where">
          <span className="jp-skylift-preview-path">
            <span className="jp-skylift-preview-name">{volume}</span>
          </span>
          <span className="jp-skylift-preview-facts">
            Each commit is a version. Restoring one makes a new version, so nothing is lost.
          </span>
        </div>
      </div>
      {problem && (
        <div className="jp-skylift-preview-note" role="alert">
          <p>{problem}</p>
          <button type="button" className="jp-skylift-button" onClick={() => setTries(tries + 1)}>
            Try again
          </button>
        </div>
      )}
      {!versions && !problem && <p className="jp-skylift-preview-note">Loading…</p>}
      {versions && (
        <table className="jp-skylift-history-table">
          <caption className="jp-skylift-hidden">
            Versions of volume {volume}, the newest first
          </caption>
          <thead>
            <tr>
              <th scope="col">Version</th>
              <th scope="col">When</th>
              <th scope="col">Who</th>
              <th scope="col">What</th>
              <th scope="col">Changes</th>
              <th scope="col">Then</th>
              <th scope="col">
                <span className="jp-skylift-hidden">Actions</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {versions.slice(0, limit).map((version) => (
              <tr key={version.version} data-version={version.version}>
                <th scope="row" role="rowheader">
                  {version.version}
                </th>
                <td title={new Date(version.time * 1000).toString()}>{formatTime(version.time)}</td>
                <td>{version.who || '–'}</td>
                <td className="jp-skylift-history-what">
                  {version.message
                    ? shown(version.message)
                    : version.version === 0
                      ? 'made, with nothing in it'
                      : '–'}
                  {version.overwritten_count > 0 && (
                    <div className="jp-skylift-history-overwritten">
                      {`Overwrote what others had just changed: ${version.overwritten.slice(0, 3).map(shown).join(', ')}`}
                      {version.overwritten_count > 3 &&
                        ` and ${version.overwritten_count - 3} more`}
                      . The version before has it.
                    </div>
                  )}
                  {problems[version.version] && (
                    <div className="jp-skylift-volumes-edit-problem" role="alert">
                      {problems[version.version]}
                    </div>
                  )}
                </td>
                <td>{changesOf(version)}</td>
                <td className="jp-skylift-history-size">
                  {version.files.toLocaleString('en')} {version.files === 1 ? 'file' : 'files'},{' '}
                  {formatBytes(version.size)}
                </td>
                <td className="jp-skylift-history-actions">
                  {version.version === newest ? (
                    <span className="jp-skylift-history-now">now</span>
                  ) : (
                    <>
                      <button
                        type="button"
                        className="jp-skylift-button"
                        aria-label={`Look at version ${version.version}`}
                        onClick={() => look(volume, version.version)}
                      >
                        Look at it
                      </button>
                      <button
                        type="button"
                        className="jp-skylift-button"
                        aria-label={`Restore version ${version.version}`}
                        onClick={() => void restore(version.version)}
                      >
                        Restore…
                      </button>
                    </>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {versions && versions.length > limit && (
        <button
          type="button"
          className="jp-skylift-button jp-skylift-history-more"
          onClick={() => setLimit(limit + 5 * PAGE)}
        >
          Show older versions
        </button>
      )}
    </div>
  );
}

/** How much changed, in a few words. */
export function changesOf(version: Version): string {
  const { added = 0, changed = 0, removed = 0, bytes_written = 0 } = version.changes ?? {};
  const parts = [
    added && `${added.toLocaleString('en')} added`,
    changed && `${changed.toLocaleString('en')} changed`,
    removed && `${removed.toLocaleString('en')} removed`,
  ].filter(Boolean);
  if (!parts.length) {
    return 'no files';
  }
  return parts.join(', ') + (bytes_written ? ` (${formatBytes(bytes_written)})` : '');
}
