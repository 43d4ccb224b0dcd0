/** The light in each expert's window, step by step. */

import type { WalkFacts } from "./facts";

export type WindowState = "waiting" | "glow" | "lit" | "masked" | "idle" | "dropped";

export interface Window {
  readonly state: WindowState;
  /** 0 to 1. */
  readonly light: number;
  /** Whether it is one of this token's. */
  readonly isChosen: boolean;
}

/** An expert without computation hands the token through: it is chosen, and nothing burns there. */
const FAINT = 0.3;

export function lightWindows(facts: WalkFacts, step: number): Window[] {
  const glow = step === 1 ? scoreLight(facts) : step === 4 ? rowLight(facts) : null;
  const weightOf = step === 5 ? weightLight(facts) : null;
  const chosen = new Map(facts.choices.map((choice) => [choice.expert, choice]));
  const ran = new Set(facts.ran.map((choice) => choice.expert));
  return Array.from({ length: facts.numExperts }, (_, expert): Window => {
    const choice = chosen.get(expert);
    const isChosen = step > 1 && choice !== undefined;
    if (step === 0) return { state: "waiting", light: 0, isChosen };
    if (glow) return { state: "glow", light: glow(expert), isChosen };
    if (!choice) return { state: step === 2 ? "masked" : "idle", light: 0, isChosen };
    if (step === 2) return { state: "lit", light: 1, isChosen };
    if (choice.isDropped) return { state: "dropped", light: 0, isChosen };
    return { state: "lit", light: weightOf?.(expert) ?? (ran.has(expert) ? 1 : FAINT), isChosen };
  });
}

type Light = (expert: number) => number;

function scoreLight({ scores, choices }: WalkFacts): Light {
  if (!scores) return (expert) => (choices.some((choice) => choice.expert === expert) ? 1 : 0);
  const best = Math.max(...scores.map((score) => score.raw)) || 1;
  const light = new Map(scores.map((score) => [score.expert, Math.max(0, score.raw / best)]));
  return (expert) => light.get(expert) ?? 0;
}

function rowLight({ rows }: WalkFacts): Light {
  const most = Math.max(1, ...rows);
  return (expert) => (rows[expert] ?? 0) / most;
}

function weightLight({ choices }: WalkFacts): Light {
  const weights = new Map(choices.map(({ expert, weight }) => [expert, Math.abs(weight ?? 1)]));
  const heaviest = Math.max(1e-9, ...weights.values());
  return (expert) => FAINT + ((1 - FAINT) * (weights.get(expert) ?? 0)) / heaviest;
}

/** What the light means at a step. */
export function sayWindows(facts: WalkFacts, step: number): string {
  const { numExperts, choices, ran } = facts;
  switch (step) {
    case 0:
      return `${numExperts} experts, waiting.`;
    case 1:
      return facts.scores ? "Brighter: a higher score." : "Lit: the chosen ones. The other scores are not on the page.";
    case 2:
      return `${choices.length} picked, ${numExperts - choices.length} masked.`;
    case 3:
      return `${ran.length} lit for this token, ${numExperts - ran.length} dark.`;
    case 4:
      return "Brighter: more rows in this pass. Framed: this token’s experts.";
    default:
      return "Brighter: more weight in the sum.";
  }
}

/** Nearly a square, of windows that are large enough to tell apart. */
export function chooseColumns(numExperts: number): number {
  return numExperts <= 16 ? Math.min(4, numExperts) : numExperts <= 64 ? 8 : numExperts <= 256 ? 16 : 24;
}
