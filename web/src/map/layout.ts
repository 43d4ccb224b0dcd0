/** Where the map's cells lie. */

export interface Cell {
  readonly layer: number;
  readonly column: number;
}

export interface MapLayout {
  readonly left: number;
  readonly top: number;
  readonly rowHeight: number;
  readonly height: number;
  /** Of the cells, and where the plot of busiest experts begins and ends. */
  readonly right: number;
  readonly plotLeft: number;
  readonly plotRight: number;
  readonly numLayers: number;
  readonly cellWidth: (layer: number) => number;
  readonly numColumns: readonly number[];
}

const LABEL_WIDTH = 30;
const AXIS_HEIGHT = 22;
const TARGET_HEIGHT = 480;

/** Lay the map into a width, given the number of experts of each layer. */
export function layMap(width: number, numColumns: readonly number[]): MapLayout {
  const numLayers = numColumns.length;
  const rowHeight = Math.max(9, Math.min(30, Math.floor(TARGET_HEIGHT / Math.max(1, numLayers))));
  const plotWidth = width < 480 ? 84 : 170;
  const right = Math.max(LABEL_WIDTH + 1, width - plotWidth);
  return {
    left: LABEL_WIDTH,
    top: AXIS_HEIGHT,
    rowHeight,
    height: AXIS_HEIGHT + numLayers * rowHeight + 4,
    right,
    plotLeft: right + 18,
    plotRight: Math.max(right + 19, width - 10),
    numLayers,
    cellWidth: (layer) => (right - LABEL_WIDTH) / Math.max(1, numColumns[layer] ?? 1),
    numColumns,
  };
}

/** The cell under a point; null outside. */
export function cellAt(layout: MapLayout, x: number, y: number): Cell | null {
  const layer = Math.floor((y - layout.top) / layout.rowHeight);
  if (layer < 0 || layer >= layout.numLayers) return null;
  const column = Math.floor((x - layout.left) / layout.cellWidth(layer));
  return column < 0 || column >= (layout.numColumns[layer] ?? 0) ? null : { layer, column };
}

/** The cell that a key leads to; null for other keys. */
export function moveCell({ layer, column }: Cell, key: string, numColumns: readonly number[]): Cell | null {
  const steps: Readonly<Record<string, Cell>> = {
    ArrowLeft: { layer, column: column - 1 },
    ArrowRight: { layer, column: column + 1 },
    ArrowUp: { layer: layer - 1, column },
    ArrowDown: { layer: layer + 1, column },
    Home: { layer, column: 0 },
    End: { layer, column: Number.POSITIVE_INFINITY },
    PageUp: { layer: 0, column },
    PageDown: { layer: Number.POSITIVE_INFINITY, column },
  };
  const wanted = steps[key];
  if (!wanted) return null;
  const row = Math.max(0, Math.min(numColumns.length - 1, wanted.layer));
  return { layer: row, column: Math.max(0, Math.min((numColumns[row] ?? 1) - 1, wanted.column)) };
}
