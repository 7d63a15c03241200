/** The uploads below the tree: how far they are, and what is asked about them. */
import * as React from 'react';
import { closeIcon, refreshIcon } from '@jupyterlab/ui-components';
import { bytes as formatBytes, duration as formatLeft } from '../ui/formats';
import type { VolumesModel } from './model';
import { shown } from './names';
import type { Unfinished } from './unfinished';
import { isOver } from './upload-types';
import type { Answer, Upload } from './upload-types';
import { useSignal } from './use-signal';

/** More are only counted. */
const MOST = 40;

const ORDER: Upload['state'][] = [
  'asking',
  'failed',
  'sending',
  'storing',
  'waiting',
  'checking',
  'queued',
  'done',
  'cancelled',
  'skipped',
];

export function UploadList({ model }: { model: VolumesModel }): React.ReactElement | null {
  const { uploads: queue, unfinished } = model;
  useSignal(queue.changed);
  useSignal(unfinished.changed);
  const all = queue.uploads;
  const left = unfinished.left;
  if (!all.length && !left.length) {
    return null;
  }
  const first = [...all]
    .sort((one, other) => ORDER.indexOf(one.state) - ORDER.indexOf(other.state))
    .slice(0, MOST);
  const over = all.filter(isOver).length;
  const bytes = all.reduce((sum, upload) => sum + upload.file.size, 0);
  const sent = all.reduce(
    (sum, upload) => sum + (upload.state === 'done' ? upload.file.size : upload.sent),
    0,
  );
  return (
    <section className="jp-skylift-uploads" aria-label="Uploads">
      <div className="jp-skylift-uploads-head">
        <span className="jp-skylift-uploads-title">
          Uploads
          {all.length > 1 && (
            <span className="jp-skylift-uploads-count">
              {` ${all.filter((upload) => upload.state === 'done').length} of ${all.length}, ${formatBytes(sent)} of ${formatBytes(bytes)}`}
            </span>
          )}
        </span>
        {all.length - over > 1 && (
          <button
            type="button"
            onClick={() =>
              all.filter((upload) => !isOver(upload)).forEach((upload) => queue.cancel(upload))
            }
          >
            Cancel all
          </button>
        )}
        {over > 0 && (
          <button type="button" onClick={() => queue.dismiss()}>
            Clear
          </button>
        )}
      </div>
      <ul>
        {first.map((upload) => (
          <UploadLine
            key={upload.id}
            upload={upload}
            model={model}
            asked={all.filter((each) => each.state === 'asking').length}
          />
        ))}
        {left.map((each) => (
          <UnfinishedLine key={each.id} upload={each} model={model} />
        ))}
      </ul>
      {all.length > first.length && (
        <div className="jp-skylift-uploads-rest">
          and {(all.length - first.length).toLocaleString('en')} more
        </div>
      )}
    </section>
  );
}

function UploadLine(props: {
  upload: Upload;
  model: VolumesModel;
  asked: number;
}): React.ReactElement {
  const { upload, model } = props;
  const queue = model.uploads;
  const name = shown(upload.path);
  const { size } = upload.file;
  const answer =
    (what: Answer, all = false) =>
    () =>
      queue.answer(upload, what, all);
  const known = upload.state !== 'storing' && upload.state !== 'checking';
  const percent = size ? Math.floor((100 * upload.sent) / size) : 100;
  const barred = ['sending', 'storing', 'waiting', 'checking'].includes(upload.state);
  return (
    <li
      className="jp-skylift-upload"
      data-state={upload.state}
      data-path={upload.path}
      data-volume={upload.volume}
    >
      <div className="jp-skylift-upload-line">
        <span className="jp-skylift-upload-name" title={`${upload.volume}: ${name}`}>
          <bdi>{name}</bdi>
        </span>
        <span className="jp-skylift-upload-state" title={stateOf(upload)}>
          {stateOf(upload)}
        </span>
        {isOver(upload) ? (
          <>
            {(upload.state === 'failed' || upload.state === 'cancelled') && (
              <button
                type="button"
                aria-label={`Upload ${name} again`}
                title="Try again"
                onClick={() => queue.retry(upload)}
              >
                <refreshIcon.react tag="span" />
              </button>
            )}
            <button
              type="button"
              aria-label={`Take ${name} from the list`}
              title="Dismiss"
              onClick={() => queue.dismiss(upload)}
            >
              <closeIcon.react tag="span" />
            </button>
          </>
        ) : (
          <button
            type="button"
            aria-label={`Cancel the upload of ${name}`}
            title="Cancel"
            onClick={() => queue.cancel(upload)}
          >
            <closeIcon.react tag="span" />
          </button>
        )}
      </div>
      {barred && (
        <div
          className="jp-skylift-upload-bar"
          role="progressbar"
          aria-label={`Upload of ${name}`}
          aria-valuemin={0}
          aria-valuemax={100}
          aria-valuenow={known ? percent : undefined}
          aria-valuetext={stateOf(upload)}
          data-unknown={!known || undefined}
        >
          <div style={{ width: known ? `${percent}%` : '100%' }} />
        </div>
      )}
      {upload.problem && (
        <div
          className={
            upload.state === 'asking' ? 'jp-skylift-upload-question' : 'jp-skylift-upload-problem'
          }
          role={upload.state === 'waiting' ? 'status' : 'alert'}
        >
          {upload.problem}
          {upload.state === 'waiting' && ' The upload goes on by itself.'}
        </div>
      )}
      {upload.state === 'asking' && (
        <div
          className="jp-skylift-upload-answers"
          role="group"
          aria-label={`What to do about ${name}`}
        >
          <button type="button" onClick={answer('replace')}>
            Replace
          </button>
          <button type="button" onClick={answer('keep both')}>
            Keep both
          </button>
          <button type="button" onClick={answer('skip')}>
            Skip
          </button>
          {props.asked > 1 && (
            <>
              <button type="button" onClick={answer('replace', true)}>
                Replace all
              </button>
              <button type="button" onClick={answer('skip', true)}>
                Skip all
              </button>
            </>
          )}
        </div>
      )}
    </li>
  );
}

function UnfinishedLine({
  upload,
  model,
}: {
  upload: Unfinished;
  model: VolumesModel;
}): React.ReactElement {
  const name = shown(upload.path);
  return (
    <li
      className="jp-skylift-upload"
      data-state="unfinished"
      data-path={upload.path}
      data-volume={upload.volume}
    >
      <div className="jp-skylift-upload-line">
        <span className="jp-skylift-upload-name" title={`${upload.volume}: ${name}`}>
          <bdi>{name}</bdi>
        </span>
        <span className="jp-skylift-upload-state">
          {formatBytes(upload.sent)} of {formatBytes(upload.size)}
        </span>
        <button
          type="button"
          aria-label={`Give up the upload of ${name}`}
          title="Give it up"
          onClick={() => model.giveUp(upload)}
        >
          <closeIcon.react tag="span" />
        </button>
      </div>
      <div className="jp-skylift-upload-question">
        Not finished. Drop the same file on the same folder again, and it goes on from here.
      </div>
    </li>
  );
}

/** In a few words. */
export function stateOf(upload: Upload): string {
  const { size } = upload.file;
  switch (upload.state) {
    case 'queued':
      return 'waits for its turn';
    case 'checking':
      return 'begins';
    case 'asking':
      return 'waits for you';
    case 'sending': {
      const left = upload.speed > 0 ? (size - upload.sent) / upload.speed : 0;
      const rest = left > 3 ? `, ${formatLeft(left)} left` : '';
      return `${formatBytes(upload.sent)} of ${formatBytes(size)}${rest}`;
    }
    case 'waiting':
      return `interrupted at ${formatBytes(upload.sent)}`;
    case 'storing':
      return 'into the volume…';
    case 'done':
      return upload.resumed
        ? `done, went on from ${formatBytes(upload.resumed)}`
        : `done, ${formatBytes(size)}`;
    case 'failed':
      return 'failed';
    case 'cancelled':
      return 'cancelled';
    case 'skipped':
      return 'skipped';
  }
}
