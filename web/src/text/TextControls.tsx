import { useMemo } from "preact/hooks";
import type { Comparison } from "../data/comparison";
import type { Trace } from "../data/trace";
import type { Select, Selection } from "../selection";
import { LayerSelect } from "./LayerSelect";
import { availableQuantities, makeQuantity, QUANTITY_TITLES, type Quantity, type QuantityName } from "./quantities";

interface TextControlsProps {
  readonly traces: readonly Trace[];
  readonly comparison: Comparison | null;
  readonly selection: Selection;
  readonly select: Select;
}

/** What the chips show, for all texts at once. */
export function TextControls({ traces, comparison, selection, select }: TextControlsProps) {
  const trace = traces[0] as Trace;
  const quantity = useQuantity(trace, 0, selection, comparison);
  const names = availableQuantities(trace, comparison).filter((name) =>
    traces.every((other) => availableQuantities(other, comparison).includes(name)),
  );
  return (
    <div class="controls">
      <label>
        coloured by{" "}
        <select
          value={selection.quantity}
          onChange={(event) => select({ quantity: event.currentTarget.value as QuantityName })}
        >
          {names.map((name) => (
            <option key={name} value={name}>
              {QUANTITY_TITLES[name]}
            </option>
          ))}
        </select>
      </label>
      {selection.quantity === "expert" ? (
        <label>
          expert{" "}
          <input
            type="number"
            min={0}
            max={trace.numExperts(selection.layer) - 1}
            value={selection.expert}
            onInput={(event) => {
              const expert = event.currentTarget.valueAsNumber;
              if (expert >= 0 && expert < trace.numExperts(selection.layer)) select({ expert });
            }}
          />
        </label>
      ) : (
        <LayerSelect trace={trace} selection={selection} select={select} />
      )}
      <QuantityLegend quantity={quantity} />
    </div>
  );
}

export function useQuantity(
  trace: Trace,
  side: number,
  { quantity: name, layer, expert }: Selection,
  comparison: Comparison | null,
): Quantity {
  return useMemo(
    () => makeQuantity(trace, { name, layer, expert, side }, comparison),
    [trace, name, layer, expert, side, comparison],
  );
}

function QuantityLegend({ quantity }: { quantity: Quantity }) {
  if (quantity.isExpert) return <p class="legend-text">Small figures are experts; a hue stands for several of them.</p>;
  return (
    <p class="legend-text">
      {quantity.low} <span class="ramp" aria-label="to" role="img" /> {quantity.high}
    </p>
  );
}
