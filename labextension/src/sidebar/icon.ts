import { LabIcon } from '@jupyterlab/ui-components';

/** A rising line over a bed of two bars. */
export const skyliftIcon = new LabIcon({
  name: 'skylift:logo',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3" fill="none" stroke="#616161" stroke-width="2" stroke-linecap="round" stroke-linejoin="round">
    <path d="M12 15V4M7 8.500l5-5 5 5"/>
    <path d="M4 15.500h4M16 15.500h4M4 20h16"/>
  </g>
</svg>`,
});
