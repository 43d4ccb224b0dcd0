import { extent } from "d3-array";
import { scaleLinear } from "d3-scale";
import type { ExpertScore } from "../data/trace";

interface ScoreChartProps {
  readonly scores: readonly ExpertScore[];
  readonly numPicked: number;
  readonly isBiased: boolean;
  readonly width: number;
}

const HEIGHT = 150;
const TOP = 26;
const BASE = 146;

/** One column per expert, best first. Bars are scores; where selection adds a bias, ticks are what it ranked. */
export function ScoreChart({ scores, numPicked, isBiased, width }: ScoreChartProps) {
  const column = width / scores.length;
  const values = scores.flatMap(({ raw, ranked }) => (Number.isFinite(ranked) ? [raw, ranked] : [raw]));
  const [low = 0, high = 1] = extent(values);
  const y = scaleLinear()
    .domain([Math.min(0, low), Math.max(high, 1e-9)])
    .range([BASE, TOP]);
  const barWidth = Math.max(0.8, column - (column > 4 ? 2 : 0.4));
  const cut = numPicked * column;
  const isLate = cut > width / 2;
  return (
    <svg
      width={width}
      height={HEIGHT}
      viewBox={`0 0 ${width} ${HEIGHT}`}
      role="img"
      aria-label="Scores of all experts, sorted"
    >
      {scores.map(({ expert, raw, ranked }, rank) => (
        <g key={expert}>
          <rect
            class={rank < numPicked ? "bar in" : Number.isFinite(ranked) ? "bar out" : "bar masked"}
            x={rank * column}
            y={Math.min(y(raw), y(0))}
            width={barWidth}
            height={Math.max(0.5, Math.abs(y(0) - y(raw)))}
          />
          {isBiased && Number.isFinite(ranked) && (
            <rect class="tick" x={rank * column} y={y(ranked) - 1} width={barWidth} height={2} />
          )}
        </g>
      ))}
      <line class="axis" x1={0} x2={width} y1={y(0)} y2={y(0)} />
      <line class="mark" x1={cut - 0.5} x2={cut - 0.5} y1={6} y2={BASE + 6} />
      <text x={isLate ? cut - 6 : cut + 6} y={14} text-anchor={isLate ? "end" : "start"}>
        {isLate ? `the best ${numPicked} | out` : `the best ${numPicked} are left of this line`}
      </text>
    </svg>
  );
}
