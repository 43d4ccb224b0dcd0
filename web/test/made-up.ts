/** A trace small enough to check by hand: 1 layer, 4 tokens, top-2 of 4 experts. */

import type { Arrays, Layer, Numbers, TraceFacts } from "../src/data/payload";
import { Trace } from "../src/data/trace";

export const LAYER: Layer = {
  index: 7,
  path: "model.layers.7.mlp",
  num_experts: 4,
  top_k: 2,
  formula: "softmax(logits)",
  score: "softmax",
  selects_on_bias: false,
  normalises: null,
  num_shared: 0,
  zero_experts: 0,
  verdict: { status: "healthy", sentence: "even" },
  max_over_mean: 1.5,
  cv: 0.2,
  normalised_entropy: 0.9,
  dead: 1,
  drop_fraction: 0,
  margin: [0.1, 0.2, 0.3],
  skipped_fraction: 0.5,
};

const array = (data: Numbers, ...shape: number[]) => ({ data, shape });
const NONE = 0xff;

export const ARRAYS: Arrays = {
  topk_ids: array(Uint8Array.of(0, 1, 1, 2, 0, 1, 1, NONE), 1, 4, 2),
  topk_weights: array(Float32Array.of(0.75, 0.25, 0.5, 0.5, 0.625, 0.375, 1, 0), 1, 4, 2),
  // Token 2's second choice.
  dropped: array(Uint8Array.of(0, 0, 0b10, 0), 1, 4, 1),
  select_margin: array(Float32Array.of(0.1, 0.2, 0.3, 0.4), 1, 4),
  token_text: array(Int32Array.of(0, 1, 2, -1), 4),
  token_ids: array(Int32Array.of(10, 11, 12, 13), 4),
  forward_id: array(Int32Array.of(0, 0, 0, 1), 4),
  seq_offsets: array(Int32Array.of(0, 3, 4), 3),
  counts: array(Float64Array.of(2, 3, 1, 0), 1, 4),
  scored_tokens: array(Int32Array.of(1), 1),
  router_scores: array(Float32Array.of(0.1, 0.4, 0.3, 0.3), 1, 1, 4),
};

export function makeTrace(layer: Partial<Layer> = {}, arrays: Arrays = {}): Trace {
  const facts: TraceFacts = {
    name: "made up",
    provenance: [],
    note: null,
    cut: null,
    not_shown: [],
    verdict: { status: "healthy", sentence: "even" },
    layers: [{ ...LAYER, ...layer }],
    strings: [" water", "\n", " irrigation"],
    size: null,
    speed: null,
  };
  return new Trace(facts, { ...ARRAYS, ...arrays });
}
