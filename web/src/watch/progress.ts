/** What the server of `headgate report --watch` knows of a run; src/headgate/observe/watch/progress.py writes it. */

import type { Status } from "../data/payload";

/** Step, loss, and the load of the busiest expert of the worst layer, in even shares. */
export type Point = readonly [step: number, loss: number | null, ratio: number | null];

export interface LayerProgress {
  /** Of each expert, in even shares. */
  readonly load: readonly number[];
  readonly status: Status;
  readonly sentence: string;
}

export interface Progress {
  readonly name: string;
  readonly num_steps: number | null;
  readonly step: number;
  readonly loss: number | null;
  readonly tokens_per_s: number | null;
  readonly recent_steps: number;
  readonly points: readonly Point[];
  readonly layers: readonly LayerProgress[];
  readonly num_unreadable: number;
}

/** One sentence on how the run stands. */
export function describeProgress(progress: Progress): string {
  if (progress.step === 0) return "No step is done yet.";
  const worst = worstLayer(progress.layers);
  if (!worst) return "This model has no routed layer.";
  const { status, sentence } = worst.layer;
  const busy = progress.layers.filter((layer) => layer.status !== "healthy").length;
  if (busy === 0) return `All ${progress.layers.length} layers are healthy.`;
  return `Layer ${worst.row} is ${status}: ${sentence}.`;
}

const RANK: Readonly<Record<Status, number>> = { collapsed: 3, imbalanced: 2, unknown: 1, healthy: 0 };

/** The layer that does worst, with its row; undefined where there is none. */
export function worstLayer(
  layers: readonly LayerProgress[],
): { readonly row: number; readonly layer: LayerProgress } | undefined {
  let worst: { row: number; layer: LayerProgress } | undefined;
  for (const [row, layer] of layers.entries()) {
    if (!worst || RANK[layer.status] > RANK[worst.layer.status]) worst = { row, layer };
  }
  return worst;
}

/** The points that have a value, as pairs. */
export function series(points: readonly Point[], column: 1 | 2): [number, number][] {
  return points.flatMap((point) => {
    const value = point[column];
    return value === null ? [] : [[point[0], value] as [number, number]];
  });
}
