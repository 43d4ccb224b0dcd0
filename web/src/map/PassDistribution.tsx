import { quantileSorted } from "d3-array";
import { scaleLinear } from "d3-scale";
import { useMemo } from "preact/hooks";
import type { Trace } from "../data/trace";
import { useWidth } from "../draw/canvas";
import { formatNumberOf, formatTimes } from "../format";
import { binRatios, sharedScales, type SharedScales } from "./passes";

const HEIGHT = 92;
const BASE = 70;

interface PassDistributionProps {
  readonly trace: Trace;
  /** All that the page shows: they share their axes, so that the columns compare. */
  readonly traces: readonly Trace[];
  readonly layer: number;
}

/** How uneven single forward passes were in one layer. Over a whole trace much evens out that made a pass wait. */
export function PassDistribution({ trace, traces, layer }: PassDistributionProps) {
  const [element, width] = useWidth<HTMLDivElement>();
  const ratios = useMemo(() => trace.passRatios(layer).sort((a, b) => a - b), [trace, layer]);
  const scales = useMemo(() => sharedScales(traces.map((one) => one.passRatios(layer))), [traces, layer]);
  if (ratios.length === 0) return null;
  const median = quantileSorted(ratios, 0.5) ?? 1;
  const high = quantileSorted(ratios, 0.95) ?? 1;
  return (
    <figure class="passes">
      <figcaption>
        <b>Single forward passes, layer {trace.layer(layer).index}.</b> In half of{" "}
        {formatNumberOf(ratios.length, "pass", "passes")} the busiest expert had {formatTimes(median)} an even share or
        more, in one of twenty {formatTimes(high)} or more. All wait for it.
      </figcaption>
      <div ref={element} class="chart">
        <Histogram
          ratios={ratios}
          scales={scales}
          width={width}
          marks={[
            ["half", median],
            ["1 in 20", high],
          ]}
        />
      </div>
    </figure>
  );
}

interface HistogramProps {
  readonly ratios: readonly number[];
  readonly scales: SharedScales;
  readonly width: number;
  readonly marks: readonly (readonly [string, number])[];
}

function Histogram({ ratios, scales, width, marks }: HistogramProps) {
  const x = scaleLinear(scales.domain, [1, Math.max(2, width - 24)]);
  const [low] = scales.domain;
  const bins = binRatios(ratios, scales.domain);
  const y = scaleLinear([0, scales.tallest * ratios.length], [0, BASE - 20]);
  return (
    <svg width={width} height={HEIGHT} viewBox={`0 0 ${width} ${HEIGHT}`} aria-hidden="true">
      {bins.map((group) => (
        <rect
          key={group.x0}
          class="column"
          x={x(group.x0 ?? 1)}
          y={BASE - y(group.length)}
          width={Math.max(1, x(group.x1 ?? 1) - x(group.x0 ?? 1) - 1)}
          height={y(group.length)}
        />
      ))}
      <line class="axis" x1={0} x2={width} y1={BASE + 0.5} y2={BASE + 0.5} />
      {marks.map(([name, mark], i) => (
        <g key={name}>
          <line class="mark" x1={x(mark)} x2={x(mark)} y1={4} y2={BASE} />
          <text x={x(mark) + (i ? 5 : -5)} y={12} text-anchor={i ? "start" : "end"}>
            {name}
          </text>
        </g>
      ))}
      {x.ticks(5).map((tick) => (
        <text key={tick} x={x(tick)} y={HEIGHT - 6} text-anchor={tick === low ? "start" : "middle"}>
          {tick} ×
        </text>
      ))}
    </svg>
  );
}
