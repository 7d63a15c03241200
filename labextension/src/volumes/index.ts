/** Volumes in the sidebar. */
import type { ISection } from '../sidebar/section';
import { VolumesSection, VolumesToolbar } from './section';

export { volumePlugins } from './plugin';

/** The section. */
export const volumesSection: ISection = {
  id: 'volumes',
  title: 'Volumes',
  Component: VolumesSection,
  toolbar: VolumesToolbar,
};
