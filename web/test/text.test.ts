import { expect, test } from "vitest";
import { moveToken } from "../src/text/keys";
import { layLines, lineOf, linesInSight } from "../src/text/lines";
import { availableQuantities, makeQuantity } from "../src/text/quantities";
import { findTokens, quoteToken, showToken } from "../src/text/tokens";
import { makeTrace } from "./made-up";

test("what can't be seen is shown", () => {
  expect(showToken("\n\t", 1)).toBe("↵⇥");
  expect(showToken("  ", 1)).toBe("␣␣");
  expect(showToken(" a", 1)).toBe(" a");
  expect(showToken("", 1)).toBe("∅");
  expect(showToken(null, 17)).toBe("#17");
  expect(showToken(null, null)).toBe("·");
  expect(showToken("\u202eevil\u0000", 1)).toBe("‹202E›evil‹0›");
  expect(showToken("\ud800", 1)).toBe("‹D800›");
  expect(showToken("x".repeat(100), 1)).toBe(`${"x".repeat(60)}…`);
  expect(quoteToken(" water", 1)).toBe("“water”");
});

test("markup stays text", () => {
  expect(showToken("</script><img src=x onerror=a()>", 1)).toBe("</script><img src=x onerror=a()>");
});

test("search: case, tokens that begin a match, nothing", () => {
  const strings = ["Wa", "ter", null, " water", " WATER"];
  expect(findTokens(strings, "water")).toEqual([0, 3, 4]);
  expect(findTokens(strings, "r w")).toEqual([1, 3]);
  expect(findTokens(strings, "")).toEqual([]);
  expect(findTokens(strings, "fire")).toEqual([]);
});

const RULES = { width: 10, gap: 1, breaksBefore: () => false, breaksAfter: () => false };

test("lines hold what fits, every token once and in order", () => {
  const lines = layLines([4, 5, 4, 30, 1], RULES);
  expect(lines).toEqual([
    { begin: 0, end: 2 },
    { begin: 2, end: 3 },
    { begin: 3, end: 4 },
    { begin: 4, end: 5 },
  ]);
  expect(layLines([], RULES)).toEqual([]);
});

test("lines end at sequences and at line ends of the text", () => {
  const rules = { ...RULES, breaksBefore: (token: number) => token === 3, breaksAfter: (token: number) => token === 0 };
  expect(layLines([1, 1, 1, 1], rules).map(({ begin }) => begin)).toEqual([0, 1, 3]);
});

test("the line of each token", () => {
  const lines = layLines([4, 5, 4, 30, 1], RULES);
  expect([0, 1, 2, 3, 4].map((token) => lineOf(lines, token))).toEqual([0, 0, 1, 2, 3]);
});

test("only lines near the window are drawn", () => {
  expect(linesInSight(0, 280, 28, 1000)).toEqual([0, 16]);
  expect(linesInSight(2800, 280, 28, 1000)).toEqual([94, 116]);
  expect(linesInSight(2800, 280, 28, 20)).toEqual([20, 20]);
});

test("keys move by token, line and page, and stay inside", () => {
  const lines = layLines([4, 5, 4, 5, 4], RULES);
  const keys = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageDown", "PageUp", "x"];
  expect(keys.map((key) => moveToken(lines, 3, key))).toEqual([2, 4, 1, 4, 2, 3, 4, 1, null]);
  expect(moveToken(lines, 0, "ArrowLeft")).toBe(0);
  expect(moveToken([], 0, "ArrowLeft")).toBeNull();
});

test("quantities are offered where their arrays are", () => {
  const trace = makeTrace();
  expect(availableQuantities(trace, null)).toEqual(["first", "weight", "margin", "dropped", "expert"]);
});

test("a quantity spans what occurs, and its label has the number", () => {
  const quantity = (name: "margin" | "dropped" | "expert" | "first") =>
    makeQuantity(makeTrace(), { name, layer: 0, expert: 0, side: 0 }, null);
  expect([0, 3].map((token) => quantity("margin").value(token))).toEqual([0, 1]);
  expect(quantity("margin").label(1)).toBe("margin 0.200");
  expect(quantity("dropped").label(2)).toBe("1 of 2 choices dropped");
  expect([0, 1, 2].map((token) => quantity("expert").value(token))).toEqual([1, 0, 1]);
  expect(quantity("first").value(3)).toBe(1);
});
