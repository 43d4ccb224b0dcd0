import type { QuantityName } from "./text/quantities";

/** What the person looks at: one state for all views. */
export interface Selection {
  /** A row of the traces' layers. */
  readonly layer: number;
  /** For each trace its token; null where the other's has no counterpart. */
  readonly tokens: readonly (number | null)[];
  readonly expert: number;
  /** Of the walk, 0 to 5. */
  readonly step: number;
  readonly quantity: QuantityName;
}

export type Select = (change: Partial<Selection>) => void;
