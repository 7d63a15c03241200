/** Where a name is typed: of something new, or another one. */
import * as React from 'react';
import { useEffect, useRef, useState } from 'react';

export interface INameInputProps {
  label: string;
  placeholder?: string;
  value: string;
  /** Only the part before the ending is selected. */
  file?: boolean;
  problem: string;
  /** The person has typed since the problem was said. */
  onType: () => void;
  /** Done where it resolves to true. */
  onCommit: (name: string) => Promise<boolean>;
  onCancel: () => void;
}

export function NameInput(props: INameInputProps): React.ReactElement {
  const [value, setValue] = useState(props.value);
  const [busy, setBusy] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const over = useRef(false);

  const given = useRef(props);
  useEffect(() => {
    const { file, value: name } = given.current;
    const dot = file ? name.lastIndexOf('.') : -1;
    input.current?.focus();
    input.current?.setSelectionRange(0, dot > 0 ? dot : name.length);
  }, []);

  const commit = async () => {
    if (over.current || busy) {
      return;
    }
    setBusy(true);
    const done = await props.onCommit(value);
    over.current = done;
    if (!done) {
      setBusy(false);
      input.current?.focus();
    }
  };
  const cancel = () => {
    over.current = true;
    props.onCancel();
  };

  return (
    <input
      ref={input}
      className="jp-skylift-volumes-name"
      aria-label={props.label}
      aria-invalid={props.problem !== ''}
      placeholder={props.placeholder}
      value={value}
      readOnly={busy}
      spellCheck={false}
      onChange={(event) => {
        setValue(event.target.value);
        props.onType();
      }}
      onKeyDown={(event) => {
        event.stopPropagation();
        if (event.key === 'Enter' && !event.nativeEvent.isComposing) {
          void commit();
        } else if (event.key === 'Escape') {
          cancel();
        }
      }}
      onClick={(event) => event.stopPropagation()}
      onDoubleClick={(event) => event.stopPropagation()}
      onBlur={() => {
        if (over.current || busy) {
          return;
        }
        if (!value || value === props.value || props.problem) {
          cancel();
        } else {
          void commit();
        }
      }}
    />
  );
}
