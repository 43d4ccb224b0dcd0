import { expect, test } from "vitest";
import { PALETTES } from "../src/draw/palette";
import { cellAt, layMap, moveCell } from "../src/map/layout";
import { describeCell, orderExperts } from "../src/map/orders";
import { makeTrace } from "./made-up";

const COLUMNS = [8, 4];
const layout = layMap(800, COLUMNS);

test("the middle of each cell is that cell, whatever the layer's width", () => {
  for (const [layer, count] of COLUMNS.entries()) {
    for (let column = 0; column < count; column++) {
      const x = layout.left + (column + 0.5) * layout.cellWidth(layer);
      const y = layout.top + (layer + 0.5) * layout.rowHeight;
      expect(cellAt(layout, x, y)).toEqual({ layer, column });
    }
  }
});

test("beside the cells is no cell", () => {
  const [x, y] = [layout.left + 1, layout.top + 1];
  expect([
    cellAt(layout, 1, y),
    cellAt(layout, layout.right + 1, y),
    cellAt(layout, x, 1),
    cellAt(layout, x, 9999),
  ]).toEqual([null, null, null, null]);
});

test("keys stay within the layer, and rows of other widths are entered at their last column", () => {
  const at = { layer: 0, column: 7 };
  expect(moveCell(at, "ArrowRight", COLUMNS)).toEqual(at);
  expect(moveCell(at, "ArrowDown", COLUMNS)).toEqual({ layer: 1, column: 3 });
  expect(moveCell(at, "Home", COLUMNS)).toEqual({ layer: 0, column: 0 });
  expect(moveCell({ layer: 1, column: 0 }, "PageUp", COLUMNS)).toEqual({ layer: 0, column: 0 });
  expect(moveCell(at, "a", COLUMNS)).toBeNull();
});

test("the busiest come first, ties by number", () => {
  expect(orderExperts(makeTrace(), true)).toEqual([[1, 0, 2, 3]]);
  expect(orderExperts(makeTrace(), false)).toEqual([[0, 1, 2, 3]]);
});

test("a cell in words", () => {
  expect(describeCell(makeTrace(), 0, 1)).toBe("Layer 7, expert 1: 3 rows, 2.00 × an even share.");
  expect(describeCell(makeTrace(), 0, 3)).toBe("Layer 7, expert 3: no rows, never used.");
});

test("loads of one eighth and one quarter look the same, none and a quarter do not", () => {
  for (const palette of Object.values(PALETTES)) {
    expect(palette.load(1 / 8)).toBe(palette.load(1 / 4));
    expect(palette.load(0)).not.toBe(palette.load(1 / 4));
    expect(palette.load(1)).not.toBe(palette.load(2));
  }
});
