import { max, min } from "d3-array";
import { scaleLinear } from "d3-scale";
import { area, curveStepAfter } from "d3-shape";
import { formatTimes } from "../format";

const WIDTH = 90;
const HEIGHT = 22;

/** Load over equal stretches of the trace, from 0; the highest stretch fills the height. */
export function Sparkline({ values }: { values: readonly number[] }) {
  if (values.length < 2) return <>–</>;
  const x = scaleLinear().domain([0, values.length]).range([0, WIDTH]);
  const y = scaleLinear()
    .domain([0, max(values) || 1])
    .range([HEIGHT - 1, 1]);
  const shape = area<number>(
    (_, i) => x(i),
    HEIGHT - 1,
    (value) => y(value),
  ).curve(curveStepAfter);
  const label = `Load over the trace, between ${formatTimes(min(values) ?? 0)} and ${formatTimes(max(values) ?? 0)} an even share`;
  return (
    <svg class="sparkline" width={WIDTH} height={HEIGHT} role="img" aria-label={label}>
      <path d={shape([...values, values[values.length - 1] as number]) ?? ""} />
    </svg>
  );
}
