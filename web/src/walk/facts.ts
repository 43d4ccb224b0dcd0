/** What a walk says of one token in one layer: every number that its six steps name. */

import { sum } from "d3-array";
import type { Choice, ExpertScore, Pass, Trace } from "../data/trace";

export interface WalkFacts {
  readonly layer: number;
  readonly token: number;
  readonly numExperts: number;
  /** Best first, dropped ones included. */
  readonly choices: readonly Choice[];
  /** Those that computed something: neither dropped nor without computation. */
  readonly ran: readonly Choice[];
  /** All experts in the order of selection; null where the page has no scores for this token. */
  readonly scores: readonly ExpertScore[] | null;
  /** The best expert that was not chosen. */
  readonly firstOut: ExpertScore | null;
  readonly margin: number | null;
  /** The fraction of the layer's tokens that were decided by more. */
  readonly surerFraction: number | null;
  /** Of the layer's routed experts, those that did not run. */
  readonly skippedFraction: number;
  readonly pass: Pass;
  readonly rows: readonly number[];
  readonly evenRows: number;
  /** The expert with the most rows of the pass. */
  readonly slowest: number;
  readonly weightSum: number | null;
  readonly sharedNorm: number | null;
  readonly outputNorm: number | null;
  /** How far the layer’s output is from the sum of its parts, as a fraction of its length. */
  readonly sumError: number | null;
}

export function gatherFacts(trace: Trace, l: number, token: number): WalkFacts {
  const layer = trace.layer(l);
  const choices = trace.choices(l, token);
  const ran = choices.filter((choice) => !choice.isDropped && choice.expert < layer.num_experts);
  const scores = trace.scores(l, token);
  const chosen = new Set(choices.map((choice) => choice.expert));
  const firstOut =
    scores?.find((score) => !chosen.has(score.expert) && score.ranked > Number.NEGATIVE_INFINITY) ?? null;
  const margin = trace.ofLayer("select_margin", l, token);
  const pass = trace.pass(l, token);
  const rows = pass.tokensOf.slice(0, layer.num_experts).map((tokens) => tokens.length);
  const isWeighted = choices.every((choice) => choice.weight !== null);
  return {
    layer: l,
    token,
    numExperts: trace.numExperts(l),
    choices,
    ran,
    scores,
    firstOut,
    margin,
    surerFraction: margin === null ? null : fractionAbove(trace, l, margin),
    skippedFraction: 1 - ran.length / layer.num_experts,
    pass,
    rows,
    evenRows: sum(rows) / rows.length,
    slowest: rows.indexOf(Math.max(...rows)),
    weightSum: isWeighted && choices.length ? sum(choices, (choice) => choice.weight ?? 0) : null,
    sharedNorm: trace.ofLayer("shared_norms", l, token),
    outputNorm: trace.ofLayer("output_norms", l, token),
    sumError: trace.ofLayer("sum_error", l, token),
  };
}

function fractionAbove(trace: Trace, l: number, margin: number): number {
  let above = 0;
  let known = 0;
  for (let token = 0; token < trace.numTokens; token++) {
    const other = trace.ofLayer("select_margin", l, token);
    if (other === null) continue;
    known++;
    if (other > margin) above++;
  }
  return above / known;
}
