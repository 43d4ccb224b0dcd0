import { useCallback, useId, useMemo, useState } from "preact/hooks";
import type { Trace } from "../data/trace";
import { Canvas, useWidth } from "../draw/canvas";
import { usePalette } from "../draw/theme";
import type { Select, Selection } from "../selection";
import { drawMap } from "./draw";
import { LoadLegend } from "./LoadLegend";
import { type Cell, cellAt, layMap, type MapLayout, moveCell } from "./layout";
import { describeCell, orderExperts } from "./orders";

interface LoadMapProps {
  readonly trace: Trace;
  readonly selection: Selection;
  readonly select: Select;
}

/** Layers by experts, and beside each layer its busiest expert: over the whole trace, and in single passes. */
export function LoadMap({ trace, selection, select }: LoadMapProps) {
  const [element, width] = useWidth<HTMLDivElement>();
  const [isSorted, setSorted] = useState(false);
  const [cell, setCell] = useState<Cell | null>(null);
  const id = useId();
  const palette = usePalette();
  const rows = useMemo(() => orderExperts(trace, isSorted), [trace, isSorted]);
  const layout = useMemo(
    () =>
      layMap(
        width,
        rows.map((row) => row.length),
      ),
    [width, rows],
  );
  const draw = useCallback(
    (context: CanvasRenderingContext2D) => drawMap(context, layout, trace, rows, palette),
    [layout, trace, rows, palette],
  );
  const expertOf = (place: Cell) => rows[place.layer]?.[place.column] ?? 0;
  const choose = (place: Cell) => select({ layer: place.layer, expert: expertOf(place) });
  const current = cell ?? {
    layer: selection.layer,
    column: Math.max(0, rows[selection.layer]?.indexOf(selection.expert) ?? 0),
  };
  return (
    <div class="map">
      <div class="controls">
        <LoadLegend />
        <label>
          <input type="checkbox" checked={isSorted} onChange={(event) => setSorted(event.currentTarget.checked)} />{" "}
          busiest first
        </label>
      </div>
      <div
        ref={element}
        class="canvas-frame"
        role="application"
        aria-roledescription="heat map"
        aria-label={`Load of each expert in each layer of ${trace.name}. Arrow keys move, Enter chooses.`}
        aria-describedby={id}
        tabIndex={0}
        onKeyDown={(event) => {
          if (event.key === "Enter" || event.key === " ") choose(current);
          else {
            const next = moveCell(
              current,
              event.key,
              rows.map((row) => row.length),
            );
            if (!next) return;
            setCell(next);
          }
          event.preventDefault();
        }}
        onPointerMove={(event) => setCell(cellAt(layout, event.offsetX, event.offsetY))}
        onPointerLeave={() => setCell(null)}
        onClick={(event) => {
          const place = cellAt(layout, event.offsetX, event.offsetY);
          if (place) choose(place);
        }}
      >
        <Canvas width={width} height={layout.height} draw={draw} />
        <CellMark layout={layout} cell={current} />
      </div>
      <p class="fine">
        At the right, each layer’s busiest expert as a multiple of an even share: the dot over the whole trace
        {trace.arrays.pass_ratio ? ", the bar in nine of ten single passes." : "."}
      </p>
      <p class="readout" id={id} aria-live="polite">
        {describeCell(trace, current.layer, expertOf(current))}
      </p>
    </div>
  );
}

function CellMark({ layout, cell }: { layout: MapLayout; cell: Cell }) {
  const cellWidth = layout.cellWidth(cell.layer);
  return (
    <span
      class="cell-mark"
      style={{
        left: `${layout.left + cell.column * cellWidth - 2}px`,
        top: `${layout.top + cell.layer * layout.rowHeight - 2}px`,
        width: `${Math.max(3, cellWidth) + 3}px`,
        height: `${layout.rowHeight + 3}px`,
      }}
    />
  );
}
