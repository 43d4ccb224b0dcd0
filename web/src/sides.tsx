import type { ComponentChildren } from "preact";
import type { Trace } from "./data/trace";

interface SidesProps {
  readonly traces: readonly Trace[];
  readonly view: (trace: Trace, side: number) => ComponentChildren;
}

/** A view once for each trace; two stand side by side, each under its name. */
export function Sides({ traces, view }: SidesProps) {
  if (traces.length === 1) return <>{view(traces[0] as Trace, 0)}</>;
  return (
    <div class="sides">
      {traces.map((trace, side) => (
        <div key={side} class="side" data-side={side}>
          <p class="side-name">
            <b>{side === 0 ? "A" : "B"}</b> {trace.name}
          </p>
          {view(trace, side)}
        </div>
      ))}
    </div>
  );
}
