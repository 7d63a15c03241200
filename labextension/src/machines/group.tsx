import React, { useId, useState } from 'react';

/** One list of the section, with a heading that folds it. */
export function Group(props: {
  /** Of its `data-skylift-group`. */
  id: string;
  title: string;
  count: number | null;
  /** Said where the list is empty. */
  empty: string;
  children: React.ReactNode;
}): JSX.Element {
  const [open, setOpen] = useState(true);
  const list = useId();
  return (
    <section className="jp-skylift-group" data-skylift-group={props.id} aria-label={props.title}>
      <h3 className="jp-skylift-group-title">
        <button
          type="button"
          aria-expanded={open}
          aria-controls={list}
          onClick={() => setOpen(!open)}
        >
          <span className="jp-skylift-group-arrow" aria-hidden="true" />
          <span>{props.title}</span>
          {props.count !== null && <span className="jp-skylift-group-count">{props.count}</span>}
        </button>
      </h3>
      <div id={list} hidden={!open}>
        {props.count === 0 ? (
          <p className="jp-skylift-empty">{props.empty}</p>
        ) : (
          <ul className="jp-skylift-rows">{props.children}</ul>
        )}
      </div>
    </section>
  );
}
