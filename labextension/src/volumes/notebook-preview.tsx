/** A notebook of a volume, to look at: nothing in it runs, and it is not trusted. */
import * as React from 'react';
import { useEffect, useRef } from 'react';
import type * as nbformat from '@jupyterlab/nbformat';
import { OutputArea, OutputAreaModel } from '@jupyterlab/outputarea';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { MimeModel } from '@jupyterlab/rendermime';
import { MessageLoop } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';
import { fenced } from './notebook-text';
import type { NotebookText } from './notebook-text';

interface INotebookPreviewProps {
  notebook: NotebookText;
  rendermime: IRenderMimeRegistry | null;
}

export function NotebookPreview({
  notebook,
  rendermime,
}: INotebookPreviewProps): React.ReactElement {
  if (!notebook.cells.length) {
    return <p className="jp-skylift-preview-note">A notebook without cells.</p>;
  }
  return (
    <div className="jp-skylift-notebook">
      {notebook.cells.map((cell, at) => (
        <div key={at} className="jp-skylift-notebook-cell" data-kind={cell.kind}>
          {cell.kind === 'code' && (
            <div className="jp-skylift-notebook-prompt" aria-label={`Cell ${at + 1}`}>
              [{cell.count ?? ' '}]:
            </div>
          )}
          <div className="jp-skylift-notebook-content">
            {cell.kind === 'raw' || !rendermime ? (
              <pre>{cell.source}</pre>
            ) : cell.kind === 'markdown' ? (
              <Markdown source={cell.source} rendermime={rendermime} />
            ) : (
              <Markdown
                source={fenced(cell.source, notebook.language)}
                rendermime={rendermime}
                code
              />
            )}
            {cell.outputs.length > 0 && rendermime && (
              <Outputs outputs={cell.outputs} rendermime={rendermime} />
            )}
          </div>
        </div>
      ))}
      {notebook.more > 0 && (
        <p className="jp-skylift-preview-note">and {notebook.more} more cells</p>
      )}
    </div>
  );
}

function Markdown(props: {
  source: string;
  rendermime: IRenderMimeRegistry;
  code?: boolean;
}): React.ReactElement {
  const { source, rendermime } = props;
  const mount = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const renderer = rendermime.createRenderer('text/markdown');
    const model = new MimeModel({ data: { 'text/markdown': source }, trusted: false });
    const detach = attach(renderer, mount.current);
    void renderer.renderModel(model);
    return detach;
  }, [source, rendermime]);
  return (
    <div
      ref={mount}
      className={props.code ? 'jp-skylift-notebook-code' : 'jp-skylift-notebook-markdown'}
    />
  );
}

function Outputs(props: {
  outputs: nbformat.IOutput[];
  rendermime: IRenderMimeRegistry;
}): React.ReactElement {
  const { outputs, rendermime } = props;
  const mount = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const area = new OutputArea({
      model: new OutputAreaModel({ values: outputs, trusted: false }),
      rendermime,
    });
    const detach = attach(area, mount.current);
    return () => {
      detach();
      area.model.dispose();
    };
  }, [outputs, rendermime]);
  return <div ref={mount} className="jp-skylift-notebook-outputs" />;
}

/** Put a widget into the page. Returns what takes it out again. */
function attach(widget: Widget, mount: HTMLElement | null): () => void {
  if (mount) {
    MessageLoop.sendMessage(widget, Widget.Msg.BeforeAttach);
    mount.appendChild(widget.node);
    MessageLoop.sendMessage(widget, Widget.Msg.AfterAttach);
  }
  return () => {
    widget.node.remove();
    widget.dispose();
  };
}
