import { max, quantileSorted } from "d3-array";
import { type ScaleLinear, scaleLinear } from "d3-scale";
import type { Trace } from "../data/trace";
import type { Palette } from "../draw/palette";
import type { MapLayout } from "./layout";

const FONT = "11px system-ui, sans-serif";
/** The narrowest row that has room for a label of its own. */
const LABEL_HEIGHT = 13;

/** Draw the map: labels, cells, and the plot of busiest experts. */
export function drawMap(
  context: CanvasRenderingContext2D,
  layout: MapLayout,
  trace: Trace,
  rows: readonly (readonly number[])[],
  palette: Palette,
): void {
  context.clearRect(0, 0, layout.plotRight + 20, layout.height);
  context.font = FONT;
  context.textBaseline = "middle";
  drawLabels(context, layout, trace, palette);
  for (let l = 0; l < layout.numLayers; l++) drawRow(context, layout, trace.loads(l), rows[l] ?? [], l, palette);
  drawBusiest(context, layout, trace, palette);
}

function middleOf(layout: MapLayout, l: number): number {
  return layout.top + (l + 0.5) * layout.rowHeight;
}

function drawLabels(context: CanvasRenderingContext2D, layout: MapLayout, trace: Trace, palette: Palette): void {
  const every = Math.ceil(LABEL_HEIGHT / layout.rowHeight);
  context.fillStyle = palette.muted;
  context.textAlign = "right";
  for (let l = 0; l < layout.numLayers; l += every) {
    context.fillText(String(trace.layer(l).index), layout.left - 7, middleOf(layout, l));
  }
  context.textAlign = "left";
  context.fillText(layout.right > 260 ? "layer, and its experts" : "layer", 0, 9);
}

function drawRow(
  context: CanvasRenderingContext2D,
  layout: MapLayout,
  loads: readonly number[],
  experts: readonly number[],
  l: number,
  palette: Palette,
): void {
  const width = layout.cellWidth(l);
  const gap = width > 5 ? 1 : 0;
  const y = layout.top + l * layout.rowHeight;
  experts.forEach((expert, column) => {
    const load = loads[expert] ?? 0;
    const x = layout.left + column * width;
    context.fillStyle = palette.load(load);
    context.fillRect(x, y, Math.max(0.5, width - gap), layout.rowHeight - 1);
    if (load === 0 && width > 7) strikeOut(context, x, y, width - gap, layout.rowHeight - 1, palette);
  });
}

/** A dead expert must not pass for a dark colour of the scale. */
function strikeOut(
  context: CanvasRenderingContext2D,
  x: number,
  y: number,
  width: number,
  height: number,
  palette: Palette,
): void {
  const arm = Math.min(width, height) / 5;
  const [middleX, middleY] = [x + width / 2, y + height / 2];
  context.strokeStyle = palette.muted;
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(middleX - arm, middleY - arm);
  context.lineTo(middleX + arm, middleY + arm);
  context.moveTo(middleX + arm, middleY - arm);
  context.lineTo(middleX - arm, middleY + arm);
  context.stroke();
}

function drawBusiest(context: CanvasRenderingContext2D, layout: MapLayout, trace: Trace, palette: Palette): void {
  const passes = trace.layers.map((_, l) => trace.passRatios(l).sort((a, b) => a - b));
  const wholes = trace.layers.map((_, l) => max(trace.loads(l)) ?? 0);
  const upper = Math.max(...wholes, ...passes.map((ratios) => quantileSorted(ratios, 0.95) ?? 0), 1.5);
  const scale = scaleLinear().domain([1, upper]).range([layout.plotLeft, layout.plotRight]).nice(4);
  drawAxis(context, layout, scale, palette);
  for (let l = 0; l < layout.numLayers; l++) {
    const y = middleOf(layout, l);
    const ratios = passes[l] ?? [];
    const ends = [0.05, 0.95].map((part) => scale(quantileSorted(ratios, part) ?? 1));
    context.strokeStyle = palette.muted;
    context.lineWidth = Math.min(3, layout.rowHeight / 4);
    context.beginPath();
    context.moveTo(ends[0] as number, y);
    context.lineTo(ends[1] as number, y);
    context.stroke();
    context.fillStyle = palette.accent;
    context.beginPath();
    context.arc(scale(Math.max(1, wholes[l] as number)), y, Math.min(4, layout.rowHeight / 3), 0, 2 * Math.PI);
    context.fill();
  }
}

function drawAxis(
  context: CanvasRenderingContext2D,
  layout: MapLayout,
  scale: ScaleLinear<number, number>,
  palette: Palette,
): void {
  const last = scale.domain()[1] as number;
  for (const tick of [1, last]) {
    // The last label would be cut off at the edge.
    context.textAlign = tick === last ? "end" : "center";
    context.fillStyle = palette.muted;
    context.fillText(`${tick} ×`, tick === last ? layout.plotRight + 8 : scale(tick), 9);
    context.fillStyle = palette.rule;
    context.fillRect(scale(tick), layout.top - 4, 1, layout.numLayers * layout.rowHeight + 4);
  }
}
