import type { Size } from "../data/payload";
import { formatBytes, formatCount, formatCountInWords, formatMean, formatPercent } from "../format";

/** Total against active parameters, and what this trace really touched. */
export function SizeView({ size }: { size: Size }) {
  const parts = [
    { name: "experts that one token does not use", count: size.routed_total - size.routed_active, kind: "idle" },
    { name: "experts that one token uses", count: size.routed_active, kind: "active" },
    { name: "shared experts", count: size.shared, kind: "shared" },
    { name: "all else: attention, embeddings, routers", count: size.other, kind: "other" },
  ].filter(({ count }) => count > 0);
  return (
    <div class="size">
      <p class="sentence">{size.sentence}</p>
      <figure>
        <div
          class="parts"
          role="img"
          aria-label={`${formatPercent(size.active / size.total)} of the parameters are active`}
        >
          {parts.map(({ name, count, kind }) => (
            <i key={name} data-kind={kind} style={{ flexGrow: count / size.total }} />
          ))}
        </div>
        <ul class="legend">
          {parts.map(({ name, count, kind }) => (
            <li key={name}>
              <i data-kind={kind} />
              {name}: {formatCountInWords(count)} ({formatPercent(count / size.total)})
            </li>
          ))}
        </ul>
      </figure>
      {size.touched.length > 0 && <Touched size={size} />}
    </div>
  );
}

function Touched({ size }: { size: Size }) {
  const whole = size.touched.reduce((most, [, , all]) => Math.max(most, all), 1);
  return (
    <table class="touched">
      <caption>
        Memory follows the total, reading follows what is touched. Means over this trace, at{" "}
        {formatBytes(size.expert_bytes)} for one expert of one layer:
      </caption>
      <thead>
        <tr>
          <th scope="col">tokens in a pass</th>
          <th scope="col">experts touched, of all layers</th>
          <th scope="col">bytes read</th>
        </tr>
      </thead>
      <tbody>
        {size.touched.map(([label, touched, all, bytes]) => (
          <tr key={label}>
            <th scope="row">{label}</th>
            <td>
              <span class="share" role="img" aria-label={formatPercent(touched / all)}>
                <i style={{ width: `${(100 * touched) / whole}%` }} />
              </span>
              {formatMean(touched)} of {formatCount(all)}
            </td>
            <td>{formatBytes(bytes)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
