/** The words of the six steps. One plain sentence each, for somebody who has never heard of any of this. */

import type { Layer } from "../data/payload";
import {
  formatCount,
  formatCountInWords,
  formatList,
  formatNumberOf,
  formatPercent,
  formatScore,
  formatTimes,
} from "../format";
import type { WalkFacts } from "./facts";

export const STEPS = ["Token in", "Router scores", "Pick top-k", "Experts run", "In parallel", "Combine"] as const;

/** The one plain sentence of a step. */
export function sayStep(step: number, facts: WalkFacts, layer: Layer, quoted: string): string {
  const { choices, ran, numExperts } = facts;
  const idle = layer.num_experts - ran.length;
  switch (step) {
    case 0:
      return `${quoted} reaches layer ${layer.index} as a list of numbers, and the router sees this token alone.`;
    case 1:
      return `The router gives each of the ${formatCount(numExperts)} experts a score for this one token.`;
    case 2:
      return `Only the best ${choices.length === 1 ? "one is" : `${choices.length} are`} picked; the other ${formatCount(numExperts - choices.length)} are out.`;
    case 3:
      return `Not every expert votes: ${formatNumberOf(ran.length, "expert runs", "experts run")} for this token, and the other ${formatCount(idle)} stay dark and compute nothing.`;
    case 4:
      return sayParallel(facts);
    default:
      return sayCombine(facts, layer);
  }
}

function sayParallel({ pass, rows, slowest, evenRows }: WalkFacts): string {
  const together = formatNumberOf(pass.tokens.length, "token");
  const most = rows[slowest] ?? 0;
  if (pass.tokens.length === 1) return "This token ran alone: its experts had one row each, and nothing to share.";
  return `The ${together} that ran together are sorted by expert, and all wait for the fullest: expert ${slowest}, with ${formatNumberOf(most, "row")}, ${formatTimes(most / evenRows)} an even share.`;
}

function sayCombine({ ran }: WalkFacts, layer: Layer): string {
  const shared = layer.num_shared ? `, the shared ${layer.num_shared === 1 ? "expert’s" : "experts’"} added` : "";
  if (ran.length === 0) return `No expert ran, so the routed part adds nothing to this token${shared}.`;
  const outputs = ran.length === 1 ? "The output of the one expert is" : `The ${ran.length} outputs are`;
  return `${outputs} multiplied by ${ran.length === 1 ? "its weight" : "their weights"} and summed${shared}: one list of numbers leaves the layer.`;
}

/** How close the decision was; null where no margin was recorded. */
export function sayMargin({ margin, surerFraction, choices, firstOut }: WalkFacts): string | null {
  // Infinite where all experts were chosen: then nobody was out.
  if (margin === null || surerFraction === null || !Number.isFinite(margin)) return null;
  const last = choices[choices.length - 1];
  const over = last && firstOut ? `, expert ${last.expert} over expert ${firstOut.expert}` : "";
  return `The last one in beat the first one out by ${formatScore(margin)}${over}. ${formatPercent(surerFraction)} of this layer’s tokens were decided by more.`;
}

export function sayDropped({ choices }: WalkFacts): string | null {
  const dropped = choices.filter((choice) => choice.isDropped).map((choice) => choice.expert);
  if (dropped.length === 0) return null;
  const [noun, verb] = dropped.length === 1 ? ["Expert", "was"] : ["Experts", "were"];
  return `${noun} ${formatList(dropped)} ${verb} picked but full: this token was dropped there.`;
}

/** Norms can't give the sum back, but they bound it: |y| is at most the sum of its parts' lengths. */
export function sayNorms(facts: WalkFacts): string | null {
  const { choices, sharedNorm, outputNorm } = facts;
  const parts = choices.map((choice) => choice.norm);
  if (outputNorm === null || parts.some((norm) => norm === null)) return null;
  const lengths = [...(parts as number[]), ...(sharedNorm === null ? [] : [sharedNorm])];
  const total = lengths.reduce((a, b) => a + b, 0);
  // Norms are stored in half precision: each is within 2^-11 of itself.
  const isPossible = outputNorm <= total * (1 + 2 ** -10);
  const verdict = isPossible
    ? "no longer than that, as it must be, and shorter the more the parts point different ways"
    : "longer than that, so something that was not recorded adds to it";
  return `The parts’ lengths add up to ${formatScore(total)}; the output’s length is ${formatScore(outputNorm)}: ${verdict}.`;
}

/** Beyond this no rounding explains it: sixteen of bfloat16, each 2^-9 of what is rounded. */
const MOST_ROUNDING = 2 ** -5;

/** Whether the parts, added up as vectors by the recorder, gave what the layer returned. */
export function saySum({ sumError, outputNorm }: WalkFacts): string | null {
  if (sumError === null)
    return outputNorm === null
      ? null
      : "Only lengths were recorded: they bound the sum, but cannot show that it matches the output.";
  const sum = "While this was recorded, the parts themselves were added up: their sum";
  if (sumError === 0) return `${sum} is the output exactly.`;
  if (sumError <= MOST_ROUNDING) return `${sum} matches the output to one part in ${formatCountInWords(1 / sumError)}.`;
  const difference = Number.isFinite(sumError) ? `${formatPercent(sumError)} of its length` : "all there is";
  return `${sum} differs from the output by ${difference}, so something that is not shown adds to it or changes it.`;
}

/** By the names of RouterSpec.normalise. */
const NORMALISATIONS: Readonly<Record<string, string>> = {
  none: ": they are the scores, not normalised",
  sum: ": each was divided by the sum of all chosen",
  softmax: ": a softmax over the chosen made them",
};

export function sayWeights({ weightSum }: WalkFacts, layer: Layer): string | null {
  if (weightSum === null) return null;
  return `The weights add up to ${formatScore(weightSum)}${NORMALISATIONS[layer.normalises ?? ""] ?? ""}.`;
}
