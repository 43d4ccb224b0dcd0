import { expect, test } from "vitest";
import { Comparison } from "../src/data/comparison";
import { startToken } from "../src/start";
import { makeTrace } from "./made-up";

const trace = makeTrace();

test("choices leave out slots without an expert and know drops", () => {
  expect(trace.choices(0, 3).map((choice) => choice.expert)).toEqual([1]);
  expect(trace.choices(0, 2).map((choice) => [choice.expert, choice.isDropped])).toEqual([
    [0, false],
    [1, true],
  ]);
});

test("all ones of a u16 mark no expert, and 255 is then an expert", () => {
  const ids = { data: Uint16Array.of(255, 0xffff), shape: [1, 1, 2] };
  expect(makeTrace({}, { topk_ids: ids }).choices(0, 0)[0]?.expert).toBe(255);
  expect(makeTrace({}, { topk_ids: ids }).choices(0, 0)).toHaveLength(1);
});

test("drops are bits of as many bytes as the choices need", () => {
  const ids = { data: Uint8Array.from({ length: 10 }, (_, rank) => rank), shape: [1, 1, 10] };
  const dropped = { data: Uint8Array.of(0b1, 0b10), shape: [1, 1, 2] };
  const wide = makeTrace({ num_experts: 10 }, { topk_ids: ids, dropped });
  expect(
    wide
      .choices(0, 0)
      .filter((choice) => choice.isDropped)
      .map((choice) => choice.expert),
  ).toEqual([0, 9]);
});

test("scores come in the order of selection, ties to the lowest id, and only where the page has them", () => {
  expect(trace.scores(0, 1)?.map((score) => score.expert)).toEqual([1, 2, 3, 0]);
  expect(trace.scores(0, 0)).toBeNull();
});

test("masked experts come last", () => {
  const ranked = {
    data: Float32Array.of(0.1, Number.NEGATIVE_INFINITY, 0.3, Number.NEGATIVE_INFINITY),
    shape: [1, 1, 4],
  };
  const scores = makeTrace({}, { select_scores: ranked }).scores(0, 1);
  expect(scores?.map((score) => score.expert)).toEqual([2, 0, 1, 3]);
  expect(scores?.[2]?.raw).toBeCloseTo(0.4, 6);
});

test("an even share is 1, also where no row is", () => {
  expect(trace.loads(0)).toEqual([2 / 1.5, 3 / 1.5, 1 / 1.5, 0]);
  expect(makeTrace({}, { counts: { data: new Float64Array(4), shape: [1, 4] } }).loads(0)).toEqual([0, 0, 0, 0]);
});

test("columns beyond a layer's own experts are not its experts", () => {
  expect(makeTrace({ num_experts: 3 }).counts(0)).toEqual([2, 3, 1]);
});

test("a pass regroups its tokens by expert, without what was dropped", () => {
  const pass = trace.pass(0, 1);
  expect(pass.id).toBe(0);
  expect(pass.tokens).toEqual([0, 1, 2]);
  expect(pass.tokensOf).toEqual([[0, 2], [0, 1], [1], []]);
});

test("without forward passes, the sequence stands in, and says so", () => {
  const { forward_id: _, ...arrays } = trace.arrays;
  const unpassed = new (trace.constructor as typeof import("../src/data/trace").Trace)(trace.facts, arrays);
  expect(unpassed.pass(0, 3)).toMatchObject({ id: null, tokens: [3] });
});

test("sequences", () => {
  expect([trace.sequence(0), trace.sequence(2), trace.sequence(3)]).toEqual([
    [0, 3],
    [0, 3],
    [3, 4],
  ]);
});

test("the walk begins at a token whose scores are on the page", () => {
  expect(startToken(trace)).toBe(1);
});

test("a token without a counterpart has none, in both directions", () => {
  const comparison = new Comparison({
    facts: { sentence: "", layers: [] },
    pairs: { data: Int32Array.of(0, 2, 1, 3), shape: [2, 2] },
    overlap: { data: Uint8Array.of(2, 1), shape: [1, 2] },
    most_changed: { data: Int32Array.of(1, 0), shape: [2] },
  });
  expect(comparison.tokens(0, 1)).toEqual([1, 3]);
  expect(comparison.tokens(1, 2)).toEqual([0, 2]);
  expect(comparison.tokens(0, 2)).toEqual([2, null]);
  expect(comparison.tokens(1, 9)).toEqual([null, 9]);
  expect(comparison.overlap(0, 1)).toBe(1);
});
