/** The Spend section of the sidebar. */
import type { ISection } from '../sidebar/section';
import { SpendSection } from './spend';

export const spendSection: ISection = { id: 'spend', title: 'Spend', Component: SpendSection };
