import type { ISection } from '../sidebar/section';
import { Runs } from './runs';

/** The Runs section of the sidebar. */
export const runsSection: ISection = { id: 'runs', title: 'Runs', Component: Runs };
