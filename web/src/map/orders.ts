import type { Trace } from "../data/trace";
import { formatCount, formatTimes } from "../format";

/** The expert in each column of the map: by number, or the busiest first (ties: the lower number). */
export function orderExperts(trace: Trace, isSorted: boolean): number[][] {
  return trace.layers.map((_, l) => {
    const counts = trace.counts(l);
    const ids = counts.map((_count, expert) => expert);
    return isSorted ? ids.sort((a, b) => (counts[b] as number) - (counts[a] as number) || a - b) : ids;
  });
}

/** A cell of the map in words. */
export function describeCell(trace: Trace, l: number, expert: number): string {
  const rows = trace.counts(l)[expert] ?? 0;
  const load = trace.loads(l)[expert] ?? 0;
  const share = rows ? `${formatCount(rows)} rows, ${formatTimes(load)} an even share` : "no rows, never used";
  return `Layer ${trace.layer(l).index}, expert ${expert}: ${share}.`;
}
