/** What a page is made of: one JSON header and typed arrays, as docs/page-data.md lays them out. */

export type Numbers = Uint8Array | Uint16Array | Uint32Array | Int32Array | Float32Array | Float64Array;

/** A dense array in C order. */
export interface NumberArray {
  readonly data: Numbers;
  readonly shape: readonly number[];
}

interface ArrayPlace {
  readonly dtype: "u8" | "u16" | "u32" | "i32" | "f16" | "f32" | "f64";
  readonly shape: readonly number[];
  readonly offset: number;
}

export type Status = "healthy" | "imbalanced" | "collapsed" | "unknown";

export interface Verdict {
  readonly status: Status;
  readonly sentence: string;
  /** The thresholds behind it; a trace's has them. */
  readonly rules?: string;
}

export interface Layer {
  readonly index: number;
  readonly path: string;
  readonly num_experts: number;
  readonly top_k: number;
  readonly formula: string | null;
  readonly score: string | null;
  readonly selects_on_bias: boolean;
  readonly normalises: string | null;
  readonly num_shared: number;
  readonly zero_experts: number;
  readonly verdict: Verdict;
  readonly max_over_mean: number | null;
  readonly cv: number | null;
  readonly normalised_entropy: number | null;
  readonly dead: number;
  readonly drop_fraction: number | null;
  readonly margin: readonly number[] | null;
  readonly skipped_fraction: number;
}

export interface Size {
  readonly total: number;
  readonly active: number;
  readonly routed_total: number;
  readonly routed_active: number;
  readonly shared: number;
  readonly other: number;
  readonly bytes_per_parameter: number;
  readonly expert_bytes: number;
  readonly touched: readonly (readonly [string, number, number, number])[];
  readonly sentence: string;
}

export const ARRAY_NAMES = [
  "topk_ids",
  "topk_weights",
  "select_margin",
  "router_entropy",
  "dropped",
  "token_text",
  "token_ids",
  "position",
  "phase",
  "forward_id",
  "seq_offsets",
  "counts",
  "scored_tokens",
  "router_logits",
  "router_scores",
  "select_scores",
  "select_bias",
  "contribution_norms",
  "shared_norms",
  "output_norms",
  "sum_error",
  "pass_ids",
  "pass_ratio",
  "top_tokens",
  "top_token_counts",
  "top_token_lift",
  "specialisation",
  "specialisation_baseline",
  "partners",
  "partner_lift",
  "load_bins",
] as const;

export type ArrayName = (typeof ARRAY_NAMES)[number];
export type Arrays = { readonly [name in ArrayName]?: NumberArray };

/** What a model takes on a device, by `headgate report --model --device`. */
export interface Speed {
  readonly model: string;
  readonly device: string;
  readonly context: number;
  readonly memory_bytes: number;
  /** Sequences, tokens per second at most, bytes, and what bounds the speed. */
  readonly by_batch: readonly (readonly [number, number, number, string])[];
}

/** The facts of a trace, all but its arrays. */
export interface TraceFacts {
  readonly name: string;
  readonly provenance: readonly (readonly [string, unknown])[];
  readonly note: string | null;
  readonly cut: string | null;
  readonly not_shown: readonly string[];
  readonly verdict: Verdict;
  readonly layers: readonly Layer[];
  readonly strings: readonly string[];
  readonly size: Size | null;
  readonly speed: Speed | null;
}

export interface LayerAgreement {
  readonly overlap: number;
  readonly flips: number;
  readonly jaccard: number;
  readonly js_distance: number;
}

export interface ComparisonFacts {
  readonly sentence: string;
  readonly layers: readonly LayerAgreement[];
}

export interface Payload {
  readonly title: string;
  readonly traces: readonly { readonly facts: TraceFacts; readonly arrays: Arrays }[];
  readonly comparison: {
    readonly facts: ComparisonFacts;
    readonly pairs: NumberArray;
    readonly overlap: NumberArray;
    readonly most_changed: NumberArray;
  } | null;
}

const PAGE_VERSION = 1;

/** Undo base64 and zlib: the text of the page's data element becomes the payload's bytes. */
export async function unpackText(base64: string): Promise<ArrayBuffer> {
  return inflate(Uint8Array.from(atob(base64.trim()), (character) => character.charCodeAt(0)));
}

export async function inflate(compressed: Uint8Array<ArrayBuffer>): Promise<ArrayBuffer> {
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

/** Read the header and lay views over the arrays; nothing is copied but half-precision numbers. */
export function readPayload(bytes: ArrayBuffer): Payload {
  const length = new DataView(bytes).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
  if (header.page !== PAGE_VERSION) {
    throw new Error(
      `page (=${header.page}) must be ${PAGE_VERSION}; write the page again with one version of Headgate`,
    );
  }
  const view = (place: ArrayPlace) => viewArray(bytes, place);
  const comparison = header.comparison;
  return {
    title: header.title,
    traces: header.traces.map((trace: TraceFacts & { arrays: Record<string, ArrayPlace | null> }) => ({
      facts: trace,
      arrays: viewArrays(bytes, trace.arrays),
    })),
    comparison: comparison
      ? {
          facts: comparison,
          pairs: view(comparison.pairs),
          overlap: view(comparison.overlap),
          most_changed: view(comparison.most_changed),
        }
      : null,
  };
}

function viewArrays(bytes: ArrayBuffer, places: Record<string, ArrayPlace | null>): Arrays {
  const arrays: { [name in ArrayName]?: NumberArray } = {};
  for (const name of ARRAY_NAMES) {
    const place = places[name];
    if (place) arrays[name] = viewArray(bytes, place);
  }
  return arrays;
}

function viewArray(bytes: ArrayBuffer, { dtype, shape, offset }: ArrayPlace): NumberArray {
  const length = shape.reduce((product, size) => product * size, 1);
  switch (dtype) {
    case "u8":
      return { data: new Uint8Array(bytes, offset, length), shape };
    case "u16":
      return { data: new Uint16Array(bytes, offset, length), shape };
    case "u32":
      return { data: new Uint32Array(bytes, offset, length), shape };
    case "i32":
      return { data: new Int32Array(bytes, offset, length), shape };
    case "f16":
      return { data: widenHalves(new Uint16Array(bytes, offset, length)), shape };
    case "f32":
      return { data: new Float32Array(bytes, offset, length), shape };
    case "f64":
      return { data: new Float64Array(bytes, offset, length), shape };
    default:
      throw new Error(`dtype (=${dtype}) is unknown; write the page again with one version of Headgate`);
  }
}

let halves: Float32Array | undefined;

/** Half precision to single. A table of all 65536 values costs less than the arithmetic for each of a million. */
export function widenHalves(bits: Uint16Array): Float32Array {
  halves ??= Float32Array.from({ length: 1 << 16 }, (_, pattern) => halfToNumber(pattern));
  const table = halves;
  const wide = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) wide[i] = table[bits[i] as number] as number;
  return wide;
}

/** IEEE 754 binary16: 1 sign bit, 5 of exponent (bias 15), 10 of fraction. */
function halfToNumber(pattern: number): number {
  const sign = pattern & 0x8000 ? -1 : 1;
  const exponent = (pattern >> 10) & 0x1f;
  const fraction = pattern & 0x3ff;
  if (exponent === 0x1f) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
