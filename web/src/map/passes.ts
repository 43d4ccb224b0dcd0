import { bin, type Bin, max } from "d3-array";
import { scaleLinear } from "d3-scale";

const NUM_BINS = 40;

export interface SharedScales {
  readonly domain: readonly [number, number];
  /** The largest part of its passes that any trace has in one column. */
  readonly tallest: number;
}

/** Axes on which the histograms of several traces compare: one range of ratios, and heights as parts of the passes. */
export function sharedScales(ratios: readonly (readonly number[])[]): SharedScales {
  const upper = Math.max(2, ...ratios.map((one) => max(one) ?? 2));
  const domain = scaleLinear([1, upper], [0, 1]).nice().domain() as [number, number];
  const parts = ratios.map((one) => (max(binRatios(one, domain), (group) => group.length) ?? 0) / (one.length || 1));
  return { domain, tallest: max(parts) || 1 };
}

/** Columns over a range that all traces share. */
export function binRatios(ratios: readonly number[], domain: readonly [number, number]): Bin<number, number>[] {
  const thresholds = scaleLinear(domain, [0, 1]).ticks(NUM_BINS);
  return bin<number, number>()
    .domain(domain as [number, number])
    .thresholds(thresholds)(ratios);
}
