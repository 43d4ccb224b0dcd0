import { describe, expect, test } from "vitest";
import { describeProgress, type LayerProgress, type Progress, series, worstLayer } from "../src/watch/progress";

function layer(status: LayerProgress["status"]): LayerProgress {
  return { load: [1, 1], status, sentence: `${status} it is` };
}

function progress(layers: LayerProgress[], step = 5): Progress {
  const rest = { num_steps: 10, loss: 2, tokens_per_s: 100, recent_steps: 5, points: [], num_unreadable: 0 };
  return { name: "run", step, layers, ...rest };
}

describe("a training run", () => {
  test("names the worst layer", () => {
    expect(worstLayer([layer("healthy"), layer("imbalanced"), layer("collapsed"), layer("collapsed")])?.row).toBe(2);
    expect(worstLayer([])).toBeUndefined();
  });

  test("is described in a sentence", () => {
    expect(describeProgress(progress([], 0))).toBe("No step is done yet.");
    expect(describeProgress(progress([]))).toBe("This model has no routed layer.");
    expect(describeProgress(progress([layer("healthy"), layer("healthy")]))).toBe("All 2 layers are healthy.");
    expect(describeProgress(progress([layer("healthy"), layer("imbalanced")]))).toBe(
      "Layer 1 is imbalanced: imbalanced it is.",
    );
  });

  test("leaves out what is not known", () => {
    const points = [
      [1, 4, null],
      [2, null, 1.5],
      [3, 2, 1.25],
    ] as const;
    expect(series(points, 1)).toEqual([
      [1, 4],
      [3, 2],
    ]);
    expect(series(points, 2)).toEqual([
      [2, 1.5],
      [3, 1.25],
    ]);
  });
});
