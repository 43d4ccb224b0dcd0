/** Two traces of the same text: which tokens correspond, and how many experts they have in common. */

import type { ComparisonFacts, Payload } from "./payload";

export class Comparison {
  readonly facts: ComparisonFacts;
  /** Pairs, most changed first. */
  readonly mostChanged: readonly number[];
  private readonly pairOfToken: readonly ReadonlyMap<number, number>[];
  private readonly numPairs: number;

  constructor(private readonly source: NonNullable<Payload["comparison"]>) {
    this.facts = source.facts;
    this.numPairs = source.pairs.shape[0] ?? 0;
    this.mostChanged = Array.from(source.most_changed.data);
    this.pairOfToken = [0, 1].map(
      (side) => new Map(Array.from({ length: this.numPairs }, (_, pair) => [this.tokenOf(pair, side), pair])),
    );
  }

  tokenOf(pair: number, side: number): number {
    return this.source.pairs.data[pair * 2 + side] as number;
  }

  pairOf(side: number, token: number): number | null {
    return this.pairOfToken[side]?.get(token) ?? null;
  }

  /** Both sides' tokens, given one of them; null where it has no counterpart. */
  tokens(side: number, token: number): (number | null)[] {
    const pair = this.pairOf(side, token);
    if (pair === null) return side === 0 ? [token, null] : [null, token];
    return [this.tokenOf(pair, 0), this.tokenOf(pair, 1)];
  }

  /** How many experts a pair has in common in one layer. */
  overlap(l: number, pair: number): number {
    return this.source.overlap.data[l * this.numPairs + pair] as number;
  }
}
