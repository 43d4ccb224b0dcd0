/** What the chips can be coloured by. */

import { extent } from "d3-array";
import type { Comparison } from "../data/comparison";
import type { Trace } from "../data/trace";
import { formatScore } from "../format";

export type QuantityName = "overlap" | "first" | "weight" | "margin" | "entropy" | "dropped" | "expert";

/** A quantity of every token in one layer, or of one expert across layers. */
export interface Quantity {
  readonly name: QuantityName;
  /** Whether a value is the id of an expert, to be told apart by colour and not by order. */
  readonly isExpert: boolean;
  readonly low: string;
  readonly high: string;
  /** 0 to 1, or the id of an expert; null where there is none. */
  readonly value: (token: number) => number | null;
  readonly label: (token: number) => string;
}

export const QUANTITY_TITLES: Readonly<Record<QuantityName, string>> = {
  overlap: "experts in common",
  first: "first expert",
  weight: "weight of the first choice",
  margin: "margin",
  entropy: "entropy of the router",
  dropped: "dropped choices",
  expert: "one expert across layers",
};

/** Those that this trace has the arrays for. */
export function availableQuantities(trace: Trace, comparison: Comparison | null): QuantityName[] {
  const names: QuantityName[] = comparison ? ["overlap", "first"] : ["first"];
  if (trace.arrays.topk_weights) names.push("weight");
  if (trace.arrays.select_margin) names.push("margin");
  if (trace.arrays.router_entropy) names.push("entropy");
  if (trace.arrays.dropped) names.push("dropped");
  return [...names, "expert"];
}

export interface QuantityChoice {
  readonly name: QuantityName;
  readonly layer: number;
  readonly expert: number;
  readonly side: number;
}

export function makeQuantity(trace: Trace, choice: QuantityChoice, comparison: Comparison | null): Quantity {
  const { name, layer, expert, side } = choice;
  switch (name) {
    case "overlap":
      return comparison ? overlapQuantity(trace, comparison, layer, side) : firstQuantity(trace, layer);
    case "first":
      return firstQuantity(trace, layer);
    case "weight":
      return scaled(trace, name, (token) => trace.weightAt(layer, token, 0), "weight");
    case "margin":
      return scaled(trace, name, (token) => trace.ofLayer("select_margin", layer, token), "margin");
    case "entropy":
      return scaled(trace, name, (token) => trace.ofLayer("router_entropy", layer, token), "entropy");
    case "dropped":
      return droppedQuantity(trace, layer);
    case "expert":
      return acrossLayersQuantity(trace, expert);
  }
}

function firstQuantity(trace: Trace, layer: number): Quantity {
  const value = (token: number) => {
    const expert = trace.expertAt(layer, token, 0);
    return expert < 0 ? null : expert;
  };
  return {
    name: "first",
    isExpert: true,
    low: "",
    high: "",
    value,
    label: (token) => (value(token) === null ? "no expert" : `first expert ${value(token)}`),
  };
}

/** Colours span what occurs; the ends are named with their numbers. */
function scaled(trace: Trace, name: QuantityName, read: (token: number) => number | null, word: string): Quantity {
  const values = Array.from({ length: trace.numTokens }, (_, token) => read(token));
  const [low = 0, high = 0] = extent(values.filter((value) => value !== null && Number.isFinite(value)) as number[]);
  const span = high - low;
  return {
    name,
    isExpert: false,
    low: formatScore(low),
    high: formatScore(high),
    value: (token) => {
      const value = values[token] ?? null;
      return value === null ? null : span > 0 ? Math.min(1, Math.max(0, (value - low) / span)) : 0;
    },
    label: (token) => `${word} ${formatScore(values[token] ?? null)}`,
  };
}

function droppedQuantity(trace: Trace, layer: number): Quantity {
  const count = (token: number) => trace.choices(layer, token).filter((choice) => choice.isDropped).length;
  return {
    name: "dropped",
    isExpert: false,
    low: "none",
    high: "all",
    value: (token) => count(token) / trace.numChoices,
    label: (token) => `${count(token)} of ${trace.choices(layer, token).length} choices dropped`,
  };
}

function acrossLayersQuantity(trace: Trace, expert: number): Quantity {
  const count = (token: number) =>
    trace.layers.filter((_, l) => trace.choices(l, token).some((choice) => choice.expert === expert)).length;
  const counts = Array.from({ length: trace.numTokens }, (_, token) => count(token));
  const most = Math.max(1, ...extent(counts).map((value) => value ?? 0));
  return {
    name: "expert",
    isExpert: false,
    low: "in no layer",
    high: `in ${most} of ${trace.layers.length}`,
    value: (token) => (counts[token] ?? 0) / most,
    label: (token) => `expert ${expert} in ${counts[token]} of ${trace.layers.length} layers`,
  };
}

/** Dark is change. Of many experts mostly one changes: the root lets that be seen. */
function overlapQuantity(trace: Trace, comparison: Comparison, layer: number, side: number): Quantity {
  const topK = trace.layer(layer).top_k;
  const shared = (token: number) => {
    const pair = comparison.pairOf(side, token);
    return pair === null ? null : comparison.overlap(layer, pair);
  };
  return {
    name: "overlap",
    isExpert: false,
    low: `all ${topK} in common`,
    high: "none",
    value: (token) => {
      const overlap = shared(token);
      return overlap === null ? null : Math.sqrt(1 - Math.min(1, overlap / topK));
    },
    label: (token) => {
      const overlap = shared(token);
      return overlap === null ? "no counterpart" : `${overlap} of ${topK} experts in common`;
    },
  };
}
