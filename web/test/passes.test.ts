import { sum } from "d3-array";
import { expect, test } from "vitest";
import { binRatios, sharedScales } from "../src/map/passes";

const NARROW = [1.1, 1.1, 1.2];
const WIDE = [1.1, 2.5, 3.9, 3.9];

test("two traces share the wider range and the taller column", () => {
  const { domain, tallest } = sharedScales([NARROW, WIDE]);
  expect(domain).toEqual([1, 4]);
  expect(tallest).toBeCloseTo(2 / 3);
  expect(sharedScales([WIDE, NARROW])).toEqual({ domain, tallest });
});

test("every pass is in one column", () => {
  const { domain } = sharedScales([NARROW, WIDE]);
  for (const ratios of [NARROW, WIDE]) {
    expect(sum(binRatios(ratios, domain), (group) => group.length)).toBe(ratios.length);
  }
});

test("one trace has its own axes, and even passes have a column to stand in", () => {
  expect(sharedScales([[1, 1, 1]])).toEqual({ domain: [1, 2], tallest: 1 });
  expect(sharedScales([[]]).tallest).toBe(1);
});
