import type { Trace } from "../data/trace";
import type { Select, Selection } from "../selection";

interface LayerSelectProps {
  readonly trace: Trace;
  readonly selection: Selection;
  readonly select: Select;
}

export function LayerSelect({ trace, selection, select }: LayerSelectProps) {
  return (
    <label>
      layer{" "}
      <select
        value={selection.layer}
        onChange={(event) => {
          const layer = Number(event.currentTarget.value);
          select({ layer, expert: Math.min(selection.expert, trace.numExperts(layer) - 1) });
        }}
      >
        {trace.layers.map((layer, row) => (
          <option key={layer.index} value={row}>
            {layer.index}
          </option>
        ))}
      </select>
    </label>
  );
}
