import { expect, test } from "vitest";
import {
  formatBytes,
  formatCountInWords,
  formatList,
  formatMean,
  formatNumberOf,
  formatPercent,
  formatScore,
  formatTimes,
} from "../src/format";

test("a percentage is 0 or 100 only where it is", () => {
  expect([0, 1, 0.5, 0.875, 0.015, 0.9996, 0.00001].map(formatPercent)).toEqual([
    "0 %",
    "100 %",
    "50 %",
    "88 %",
    "1.5 %",
    "99.96 %",
    "0.001 %",
  ]);
});

test("scores keep three decimals, or powers of ten where those show nothing", () => {
  expect([0.5, 0, 0.0001234, -0.2, null].map(formatScore)).toEqual([
    "0.500",
    "0.000",
    "1.23e-4",
    "−0.200",
    "not recorded",
  ]);
  expect(formatScore(Number.NEGATIVE_INFINITY)).toBe("masked");
});

test("units", () => {
  expect([999, 1_530_000_000, 2_000_000].map(formatBytes)).toEqual(["999 bytes", "1.53 GB", "2 MB"]);
  expect([46_700_000_000, 12].map(formatCountInWords)).toEqual(["46.7 billion", "12"]);
  expect(formatTimes(2.306)).toBe("2.31 ×");
  expect([2, 1234.56].map(formatMean)).toEqual(["2", "1,234.6"]);
});

test("lists and numbers of things", () => {
  expect([formatList([1]), formatList([1, 2]), formatList([1, 2, 3])]).toEqual(["1", "1 and 2", "1, 2 and 3"]);
  expect([formatNumberOf(1, "pass", "passes"), formatNumberOf(2000, "pass", "passes")]).toEqual([
    "1 pass",
    "2,000 passes",
  ]);
});
