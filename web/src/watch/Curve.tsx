import { extent, max, min } from "d3-array";
import { format } from "d3-format";
import { scaleLinear } from "d3-scale";
import { line } from "d3-shape";

const WIDTH = 520;
const HEIGHT = 170;
const MARGIN = { left: 44, right: 10, top: 10, bottom: 22 };

interface CurveProps {
  readonly label: string;
  readonly values: readonly [number, number][];
  /** Where the horizontal axis ends, if that is known. */
  readonly last: number | null;
  /** A value to compare with, drawn as a rule. */
  readonly even?: number;
}

const formatValue = format(".3~g");

/** One quantity over the steps of a run. */
export function Curve({ label, values, last, even }: CurveProps) {
  if (values.length === 0) return null;
  const [first = 0, newest = 1] = extent(values, ([step]) => step);
  const x = scaleLinear([first, last ?? newest], [MARGIN.left, WIDTH - MARGIN.right]);
  const lowest = min(values, ([, value]) => value) ?? 0;
  const highest = max(values, ([, value]) => value) ?? 1;
  const domain = [Math.min(lowest, even ?? lowest), Math.max(highest, even ?? highest)];
  const y = scaleLinear(domain, [HEIGHT - MARGIN.bottom, MARGIN.top]).nice();
  const path = line<[number, number]>(
    ([step]) => x(step),
    ([, value]) => y(value),
  )(values as [number, number][]);
  const end = values[values.length - 1] as [number, number];
  return (
    <figure class="curve">
      <figcaption>
        {label}: <b>{formatValue(end[1])}</b>
      </figcaption>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        role="img"
        aria-label={`${label}, ${formatValue(end[1])} at step ${end[0]}`}
      >
        {y.ticks(4).map((tick) => (
          <g key={tick} transform={`translate(0 ${y(tick)})`}>
            <line class="grid" x1={MARGIN.left} x2={WIDTH - MARGIN.right} />
            <text x={MARGIN.left - 6} dy="0.32em" text-anchor="end">
              {formatValue(tick)}
            </text>
          </g>
        ))}
        {x.ticks(5).map((tick) => (
          <text key={tick} x={x(tick)} y={HEIGHT - 6} text-anchor="middle">
            {tick}
          </text>
        ))}
        {even !== undefined && (
          <line class="axis" x1={MARGIN.left} x2={WIDTH - MARGIN.right} y1={y(even)} y2={y(even)} />
        )}
        <path class="mark" fill="none" d={path ?? ""} />
      </svg>
    </figure>
  );
}
