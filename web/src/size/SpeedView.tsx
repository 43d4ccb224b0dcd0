import { max } from "d3-array";
import { format } from "d3-format";
import { scaleLinear, scaleLog } from "d3-scale";
import { line } from "d3-shape";
import type { Speed } from "../data/payload";
import { formatBytes, formatCount, formatCountInWords, formatNumberOf } from "../format";

const WIDTH = 520;
const HEIGHT = 190;
const MARGIN = { left: 58, right: 14, top: 14, bottom: 36 };

/** The ceilings of a device: tokens per second and memory against the batch, as curves and as figures. */
export function SpeedView({ speed }: { speed: Speed }) {
  const fits = speed.by_batch.filter(([, , bytes]) => bytes <= speed.memory_bytes);
  const largest = fits[fits.length - 1];
  return (
    <div class="speed">
      <p class="sentence">
        {largest
          ? `On ${speed.device}, ${formatNumberOf(largest[0], "sequence")} at once of ${formatNumberOf(speed.context, "token")} give at most ${formatCountInWords(largest[1])} tokens a second.`
          : `${speed.device} does not hold this model.`}
      </p>
      <p class="fine">
        Ceilings for {speed.model} with the experts that this trace touched: what is read and computed at full speed,
        all of it at the same time.
      </p>
      <div class="curves">
        <BatchCurve label="Tokens a second, at most" points={speed.by_batch.map(([b, rate]) => [b, rate])} />
        <BatchCurve
          label="Memory"
          points={speed.by_batch.map(([b, , bytes]) => [b, bytes])}
          limit={speed.memory_bytes}
          show={formatBytes}
        />
      </div>
      <table>
        <thead>
          <tr>
            <th scope="col">sequences at once</th>
            <th scope="col">tokens a second, at most</th>
            <th scope="col">memory of {formatBytes(speed.memory_bytes)}</th>
            <th scope="col">bound by</th>
          </tr>
        </thead>
        <tbody>
          {speed.by_batch.map(([batch, rate, bytes, bound]) => (
            <tr key={batch}>
              <th scope="row">{formatCount(batch)}</th>
              <td>{formatCountInWords(rate)}</td>
              <td>
                {formatBytes(bytes)}
                {bytes > speed.memory_bytes && ", does not fit"}
              </td>
              <td>{bound}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

interface BatchCurveProps {
  readonly label: string;
  readonly points: readonly (readonly [number, number])[];
  /** What there is of it, drawn as a rule. */
  readonly limit?: number;
  readonly show?: (value: number) => string;
}

function BatchCurve({ label, points, limit, show = format("~s") }: BatchCurveProps) {
  const batches = points.map(([batch]) => batch);
  const x = scaleLog([1, max(batches) ?? 1], [MARGIN.left, WIDTH - MARGIN.right]).base(2);
  const highest = Math.max(limit ?? 0, max(points, ([, value]) => value) ?? 1);
  const y = scaleLinear([0, highest], [HEIGHT - MARGIN.bottom, MARGIN.top]);
  const path = line<readonly [number, number]>(
    ([batch]) => x(batch),
    ([, value]) => y(value),
  )(points);
  return (
    <figure class="curve">
      <figcaption>{label}</figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} aria-hidden="true">
        {y.ticks(4).map((tick) => (
          <g key={tick} transform={`translate(0 ${y(tick)})`}>
            <line class="grid" x1={MARGIN.left} x2={WIDTH - MARGIN.right} />
            <text x={MARGIN.left - 6} dy="0.32em" text-anchor="end">
              {show(tick)}
            </text>
          </g>
        ))}
        {x.ticks().map((tick) => (
          <text key={tick} x={x(tick)} y={HEIGHT - MARGIN.bottom + 16} text-anchor="middle">
            {tick}
          </text>
        ))}
        <text x={WIDTH - MARGIN.right} y={HEIGHT - 4} text-anchor="end">
          sequences at once
        </text>
        {limit !== undefined && (
          <g>
            <line class="axis" x1={MARGIN.left} x2={WIDTH - MARGIN.right} y1={y(limit)} y2={y(limit)} />
            <text x={WIDTH - MARGIN.right} y={y(limit) + (y(limit) > 30 ? -5 : 13)} text-anchor="end">
              what the device has
            </text>
          </g>
        )}
        <path class="mark" fill="none" d={path ?? ""} />
        {points.map(([batch, value]) => (
          <circle key={batch} class="dot" cx={x(batch)} cy={y(value)} r="3" />
        ))}
      </svg>
    </figure>
  );
}
