/** What is known of one expert, from the arrays [L, E, ...]. */

import type { NumberArray } from "../data/payload";
import { rowOf, type Trace } from "../data/trace";
import { formatScore } from "../format";
import { showToken } from "../text/tokens";

export interface ExpertFacts {
  readonly expert: number;
  readonly rows: number;
  readonly load: number;
  readonly tokens: readonly { readonly text: string; readonly count: number; readonly lift: number }[];
  readonly partners: readonly { readonly expert: number; readonly lift: number }[];
  /** Its load in equal stretches of the trace, as multiples of an even share. */
  readonly bins: readonly number[];
}

export function gatherExpert(trace: Trace, l: number, expert: number): ExpertFacts {
  const { arrays, facts } = trace;
  const places = cellOf(arrays.top_tokens, l, expert);
  const counts = cellOf(arrays.top_token_counts, l, expert);
  const lifts = cellOf(arrays.top_token_lift, l, expert);
  const partnerLifts = cellOf(arrays.partner_lift, l, expert);
  return {
    expert,
    rows: trace.counts(l)[expert] ?? 0,
    load: trace.loads(l)[expert] ?? 0,
    tokens: places
      .map((place, i) => ({ text: facts.strings[place], count: counts[i] ?? 0, lift: lifts[i] ?? 0 }))
      .filter(({ text, count }) => text !== undefined && count > 0)
      .map(({ text, count, lift }) => ({ text: showToken(text ?? null, null), count, lift })),
    partners: cellOf(arrays.partners, l, expert)
      .map((partner, i) => ({ expert: partner, lift: partnerLifts[i] ?? 0 }))
      .filter(({ expert: partner, lift }) => partner < trace.numExperts(l) && lift > 0),
    bins: cellOf(arrays.load_bins, l, expert).map((share) => share * trace.layer(l).num_experts),
  };
}

/** The last axis of an array [L, E, ...] at one layer and expert. */
function cellOf(array: NumberArray | undefined, l: number, expert: number): number[] {
  if (!array) return [];
  const width = array.shape[2] ?? 1;
  return rowOf(array, l).slice(expert * width, (expert + 1) * width);
}

/** How far the experts of a layer tell tokens apart, against tokens that were shuffled. */
export function saySpecialisation(trace: Trace, l: number): string | null {
  const [value] = rowOf(trace.arrays.specialisation, l);
  const [baseline] = rowOf(trace.arrays.specialisation_baseline, l);
  if (value === undefined || baseline === undefined || Number.isNaN(value)) return null;
  const what = `Which token it is tells ${formatScore(value)} nats about which expert takes it`;
  return value > baseline
    ? `${what}; with the tokens shuffled it is ${formatScore(baseline)}, so only what lies above that is specialisation.`
    : `${what}, no more than with the tokens shuffled (${formatScore(baseline)}): no specialisation on single tokens shows.`;
}
