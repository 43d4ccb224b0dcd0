/** One trace as the views read it. Letters: L layers, T tokens, K choices, E experts; `l` is a row, not a layer's index. */

import type { Arrays, Layer, NumberArray, TraceFacts } from "./payload";

export interface Choice {
  readonly expert: number;
  /** As applied; null where the trace holds no weights. */
  readonly weight: number | null;
  readonly isDropped: boolean;
  /** Norm of what this expert added; null where it was not recorded. */
  readonly norm: number | null;
}

export interface ExpertScore {
  readonly expert: number;
  /** After the score function. */
  readonly raw: number;
  /** What the selection ranked; -Infinity for an expert in a masked group. */
  readonly ranked: number;
}

/** Tokens that the model computed together, regrouped by expert. */
export interface Pass {
  /** Null where the trace does not tell passes apart, and this is the whole sequence. */
  readonly id: number | null;
  readonly tokens: readonly number[];
  /** For each expert, the tokens that it worked on. */
  readonly tokensOf: readonly (readonly number[])[];
}

export class Trace {
  readonly name: string;
  readonly layers: readonly Layer[];
  readonly numTokens: number;
  readonly numChoices: number;
  private readonly scoredRows: ReadonlyMap<number, number>;
  private readonly none: number;

  constructor(
    readonly facts: TraceFacts,
    readonly arrays: Arrays,
  ) {
    const [, numTokens = 0, numChoices = 0] = arrays.topk_ids?.shape ?? [];
    this.name = facts.name;
    this.layers = facts.layers;
    this.numTokens = numTokens;
    this.numChoices = numChoices;
    // An id of all ones marks a slot without an expert.
    this.none = arrays.topk_ids?.data instanceof Uint8Array ? 0xff : 0xffff;
    this.scoredRows = new Map(Array.from(arrays.scored_tokens?.data ?? [], (token, row) => [token, row]));
  }

  layer(l: number): Layer {
    return this.layers[l] as Layer;
  }

  /** Experts that a token of this layer can choose from, those without computation included. */
  numExperts(l: number): number {
    const layer = this.layer(l);
    return layer.num_experts + layer.zero_experts;
  }

  /** Null where the trace holds no text for this token. */
  text(token: number): string | null {
    const place = this.arrays.token_text?.data[token] ?? -1;
    return place < 0 ? null : (this.facts.strings[place] ?? null);
  }

  /** A value of an array [T]. */
  ofToken(name: "token_ids" | "position" | "phase" | "forward_id", token: number): number | null {
    return this.arrays[name]?.data[token] ?? null;
  }

  /** A value of an array [L, T]. */
  ofLayer(
    name: "select_margin" | "router_entropy" | "shared_norms" | "output_norms" | "sum_error",
    l: number,
    token: number,
  ): number | null {
    const value = this.arrays[name]?.data[l * this.numTokens + token];
    return value === undefined || Number.isNaN(value) ? null : value;
  }

  /** The expert of a slot, or -1. */
  expertAt(l: number, token: number, rank: number): number {
    const expert = this.arrays.topk_ids?.data[this.slot(l, token, rank)] ?? this.none;
    return expert === this.none ? -1 : expert;
  }

  weightAt(l: number, token: number, rank: number): number | null {
    return this.arrays.topk_weights?.data[this.slot(l, token, rank)] ?? null;
  }

  isDropped(l: number, token: number, rank: number): boolean {
    const dropped = this.arrays.dropped;
    if (!dropped) return false;
    const bytes = dropped.shape[2] as number;
    const byte = dropped.data[(l * this.numTokens + token) * bytes + (rank >> 3)] as number;
    return ((byte >> (rank & 7)) & 1) === 1;
  }

  /** What a token chose, best first. */
  choices(l: number, token: number): Choice[] {
    const choices: Choice[] = [];
    for (let rank = 0; rank < this.numChoices; rank++) {
      const expert = this.expertAt(l, token, rank);
      if (expert < 0) continue;
      const norm = this.arrays.contribution_norms?.data[this.slot(l, token, rank)] ?? null;
      choices.push({
        expert,
        weight: this.weightAt(l, token, rank),
        isDropped: this.isDropped(l, token, rank),
        norm: norm === null || Number.isNaN(norm) ? null : norm,
      });
    }
    return choices;
  }

  private slot(l: number, token: number, rank: number): number {
    return (l * this.numTokens + token) * this.numChoices + rank;
  }

  /** Every expert's score for a token in the order of selection (ties to the lowest id); null where not on the page. */
  scores(l: number, token: number): ExpertScore[] | null {
    const raw = this.arrays.router_scores;
    const row = this.scoredRows.get(token);
    if (!raw || row === undefined) return null;
    const [, numScored = 0, width = 0] = raw.shape;
    const first = (l * numScored + row) * width;
    const ranked = this.arrays.select_scores ?? raw;
    const scores = Array.from({ length: this.numExperts(l) }, (_, expert) => ({
      expert,
      raw: raw.data[first + expert] as number,
      ranked: ranked.data[first + expert] as number,
    }));
    return scores.sort((a, b) => (a.ranked === b.ranked ? a.expert - b.expert : b.ranked > a.ranked ? 1 : -1));
  }

  /** Tokens whose scores are on the page, rising. */
  scoredTokens(): ArrayLike<number> {
    return this.arrays.scored_tokens?.data ?? [];
  }

  /** Rows per expert, of the whole trace. */
  counts(l: number): number[] {
    return rowOf(this.arrays.counts, l).slice(0, this.numExperts(l));
  }

  /** Rows per expert as multiples of an even share; 0 where there are no rows. */
  loads(l: number): number[] {
    const counts = this.counts(l);
    const even = counts.reduce((sum, count) => sum + count, 0) / counts.length;
    return counts.map((count) => (even ? count / even : 0));
  }

  /** Busiest expert over even, in each single pass. */
  passRatios(l: number): number[] {
    return rowOf(this.arrays.pass_ratio, l).filter(Number.isFinite);
  }

  /** The first token of a token's sequence, and the one after its last. */
  sequence(token: number): readonly [number, number] {
    const offsets = this.arrays.seq_offsets?.data ?? [0, this.numTokens];
    for (let s = 1; s < offsets.length; s++) {
      if (token < (offsets[s] as number)) return [offsets[s - 1] as number, offsets[s] as number];
    }
    return [0, this.numTokens];
  }

  /** The tokens that ran together with this one in a layer. */
  pass(l: number, token: number): Pass {
    const id = this.ofToken("forward_id", token);
    const [begin, end] = this.sequence(token);
    const tokens: number[] = [];
    for (let t = id === null ? begin : 0; t < (id === null ? end : this.numTokens); t++) {
      if (id === null || this.ofToken("forward_id", t) === id) tokens.push(t);
    }
    const tokensOf: number[][] = Array.from({ length: this.numExperts(l) }, () => []);
    for (const t of tokens) {
      for (let rank = 0; rank < this.numChoices; rank++) {
        const expert = this.expertAt(l, t, rank);
        if (expert >= 0 && !this.isDropped(l, t, rank)) tokensOf[expert]?.push(t);
      }
    }
    return { id, tokens, tokensOf };
  }
}

/** Row `l` of an array [L, ...], flat. */
export function rowOf(array: NumberArray | undefined, l: number): number[] {
  if (!array) return [];
  const width = array.data.length / (array.shape[0] || 1);
  return Array.from(array.data.subarray(l * width, (l + 1) * width));
}
