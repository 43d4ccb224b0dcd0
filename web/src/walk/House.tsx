import type { WalkFacts } from "./facts";
import { chooseColumns, lightWindows, sayWindows } from "./windows";

interface HouseProps {
  readonly facts: WalkFacts;
  readonly step: number;
}

/** Windows of houses with more are too small for a number, unless they are lit. */
const NUMBERED_EXPERTS = 64;

/** From here on a window is so bright that its number must be dark. */
const BRIGHT = 0.55;

/** The layer's experts as the windows of a house at night. It stays through all steps; only the light changes. */
export function House({ facts, step }: HouseProps) {
  const windows = lightWindows(facts, step);
  const columns = chooseColumns(windows.length);
  const words = sayWindows(facts, step);
  return (
    <figure class="house">
      <div
        class="windows"
        role="img"
        aria-label={words}
        style={{
          gridTemplateColumns: `repeat(${columns}, 1fr)`,
          fontSize: `${columns <= 4 ? 16 : columns <= 8 ? 12 : 10}px`,
        }}
      >
        {windows.map(({ state, light, isChosen }, expert) => (
          <span
            key={expert}
            data-expert={expert}
            data-state={state}
            data-chosen={isChosen || undefined}
            data-bright={light > BRIGHT || undefined}
            title={`expert ${expert}`}
            style={{ "--light": light.toFixed(3) }}
          >
            {windows.length <= NUMBERED_EXPERTS || isChosen ? expert : ""}
          </span>
        ))}
      </div>
      <figcaption>{words}</figcaption>
    </figure>
  );
}
