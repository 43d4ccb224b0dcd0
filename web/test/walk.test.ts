import { expect, test } from "vitest";
import { gatherFacts } from "../src/walk/facts";
import { sayDropped, sayMargin, sayNorms, sayStep, saySum, sayWeights } from "../src/walk/steps";
import { chooseColumns, lightWindows } from "../src/walk/windows";
import { LAYER, makeTrace } from "./made-up";

const trace = makeTrace();
const facts = gatherFacts(trace, 0, 1);

test("the facts of a token", () => {
  expect(facts.ran.map((choice) => choice.expert)).toEqual([1, 2]);
  expect(facts.firstOut?.expert).toBe(3);
  expect(facts.skippedFraction).toBe(0.5);
  expect(facts.surerFraction).toBe(0.5);
  expect(facts.rows).toEqual([2, 2, 1, 0]);
  expect(facts.slowest).toBe(0);
  expect(facts.weightSum).toBe(1);
});

test("a dropped choice does not run, and is named", () => {
  const dropped = gatherFacts(trace, 0, 2);
  expect(dropped.ran.map((choice) => choice.expert)).toEqual([0]);
  expect(dropped.skippedFraction).toBe(0.75);
  expect(sayDropped(dropped)).toBe("Expert 1 was picked but full: this token was dropped there.");
  expect(sayDropped(facts)).toBeNull();
});

test("an expert without computation does not count as run, nor as idle", () => {
  const free = gatherFacts(makeTrace({ num_experts: 2, zero_experts: 2 }), 0, 1);
  expect(free.ran.map((choice) => choice.expert)).toEqual([1]);
  expect(free.skippedFraction).toBe(0.5);
  expect(sayStep(3, free, { ...LAYER, num_experts: 2 }, "x")).toContain("the other 1 stay dark");
});

test("each step has one sentence, with the trace's numbers", () => {
  const sentences = [0, 1, 2, 3, 4, 5].map((step) => sayStep(step, facts, LAYER, "“x”"));
  expect(sentences).toEqual([
    "“x” reaches layer 7 as a list of numbers, and the router sees this token alone.",
    "The router gives each of the 4 experts a score for this one token.",
    "Only the best 2 are picked; the other 2 are out.",
    "Not every expert votes: 2 experts run for this token, and the other 2 stay dark and compute nothing.",
    "The 3 tokens that ran together are sorted by expert, and all wait for the fullest: expert 0, with 2 rows, 1.60 × an even share.",
    "The 2 outputs are multiplied by their weights and summed: one list of numbers leaves the layer.",
  ]);
});

test("a token alone, and a token without experts", () => {
  expect(sayStep(4, gatherFacts(trace, 0, 3), LAYER, "x")).toContain("ran alone");
  expect(sayStep(5, { ...facts, ran: [] }, LAYER, "x")).toContain("No expert ran");
  expect(sayStep(5, facts, { ...LAYER, num_shared: 1 }, "x")).toContain("the shared expert’s added");
});

test("the margin names the two, and is silent where there is none", () => {
  expect(sayMargin(facts)).toBe(
    "The last one in beat the first one out by 0.200, expert 2 over expert 3. 50 % of this layer’s tokens were decided by more.",
  );
  expect(sayMargin({ ...facts, margin: null })).toBeNull();
  expect(sayMargin({ ...facts, margin: Number.POSITIVE_INFINITY })).toBeNull();
});

test("norms: a sum longer than its parts is called out", () => {
  const choices = facts.choices.map((choice) => ({ ...choice, norm: 1 }));
  expect(sayNorms({ ...facts, choices, outputNorm: 1.5 })).toContain("as it must be");
  expect(sayNorms({ ...facts, choices, outputNorm: 2.5 })).toContain("something that was not recorded");
  expect(sayNorms({ ...facts, choices, sharedNorm: 1, outputNorm: 2.5 })).toContain("as it must be");
  expect(sayNorms(facts)).toBeNull();
});

test("the sum: exact, to rounding, off, or not recorded", () => {
  const say = (sumError: number | null, outputNorm: number | null = 2) => saySum({ ...facts, sumError, outputNorm });
  expect(say(0)).toContain("is the output exactly.");
  expect(say(2 ** -23)).toContain("matches the output to one part in 8.39 million.");
  expect(say(2 ** -5)).toContain("matches the output to one part in 32.");
  expect(say(0.35)).toContain("differs from the output by 35 % of its length, so something that is not shown");
  expect(say(Number.POSITIVE_INFINITY, 0)).toContain("differs from the output by all there is");
  expect(say(null)).toContain("Only lengths were recorded");
  expect(say(null, null)).toBeNull();
});

test("weights are summed where they were recorded", () => {
  expect(sayWeights(facts, { ...LAYER, normalises: "sum" })).toBe(
    "The weights add up to 1.000: each was divided by the sum of all chosen.",
  );
  expect(sayWeights({ ...facts, weightSum: null }, LAYER)).toBeNull();
});

test("the windows: idle experts are dark, chosen ones lit, dropped ones neither", () => {
  const states = (step: number, of = facts) => lightWindows(of, step).map((window) => window.state);
  expect(states(0)).toEqual(["waiting", "waiting", "waiting", "waiting"]);
  expect(states(2)).toEqual(["masked", "lit", "lit", "masked"]);
  expect(states(3)).toEqual(["idle", "lit", "lit", "idle"]);
  expect(states(3, gatherFacts(trace, 0, 2))).toEqual(["lit", "dropped", "idle", "idle"]);
});

test("the light follows scores, then rows, then weights", () => {
  const light = (step: number) => lightWindows(facts, step).map((window) => window.light);
  expect(light(1)).toEqual([0.25, 1, 0.75, 0.75].map((value) => expect.closeTo(value, 6)));
  expect(light(4)).toEqual([1, 1, 0.5, 0]);
  expect(light(5)).toEqual([0, 1, 1, 0]);
});

test("a house is nearly square", () => {
  expect([2, 8, 64, 128, 384].map(chooseColumns)).toEqual([2, 4, 8, 16, 24]);
});
