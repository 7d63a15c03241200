import React, { useMemo } from 'react';
import { AnsiLines } from './ansi';
import { StyledLine } from './styled-line';

/** A text with ANSI colours that is there as a whole. */
export function AnsiText({ text }: { text: string }): JSX.Element {
  const lines = useMemo(() => {
    const ansi = new AnsiLines();
    return [...ansi.push(text), ...ansi.flush()];
  }, [text]);
  return (
    <>
      {lines.map((line, index) => (
        <React.Fragment key={index}>
          <StyledLine line={line} search="" />
          {'\n'}
        </React.Fragment>
      ))}
    </>
  );
}
