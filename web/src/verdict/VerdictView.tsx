import type { Layer, Status } from "../data/payload";
import type { Trace } from "../data/trace";
import { formatCount, formatPercent, formatScore, formatTimes } from "../format";
import { ScrollTable } from "../scroll-table";

export function VerdictView({ trace }: { trace: Trace }) {
  const { verdict } = trace.facts;
  return (
    <div class="verdict">
      <p class="verdict-sentence">
        <StatusWord status={verdict.status} />. {verdict.sentence}
      </p>
      <Figures trace={trace} />
      <details>
        <summary>Layer by layer</summary>
        <LayerTable trace={trace} />
        {verdict.rules && <p class="fine">{verdict.rules}</p>}
      </details>
    </div>
  );
}

const SHAPES: Readonly<Record<Status, string>> = { healthy: "●", imbalanced: "◐", collapsed: "○", unknown: "–" };

/** The status in a word; its shape tells it apart where colours don't. */
export function StatusWord({ status }: { status: Status }) {
  return (
    <strong class="status" data-status={status}>
      <span aria-hidden="true">{SHAPES[status]}</span> {status}
    </strong>
  );
}

function Figures({ trace }: { trace: Trace }) {
  const skipped = trace.layers.map((layer) => layer.skipped_fraction);
  const layer = trace.layer(0);
  const figures: [string, string][] = [
    [trace.numTokens ? formatCount(trace.numTokens) : "none", "tokens on this page"],
    [formatCount(trace.layers.length), trace.layers.length === 1 ? "routed layer" : "routed layers"],
    [`${layer.top_k} of ${formatCount(layer.num_experts)}`, "experts run for a token, in a layer"],
    [
      formatPercent(skipped.reduce((sum, part) => sum + part, 0) / skipped.length),
      "of the experts’ compute is skipped",
    ],
  ];
  return (
    <dl class="figures">
      {figures.map(([value, name]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

const COLUMNS = [
  "layer",
  "verdict",
  "busiest over even",
  "dead",
  "variation",
  "entropy",
  "dropped",
  "margin, median",
  "in words",
];

function LayerTable({ trace }: { trace: Trace }) {
  return (
    <ScrollTable label={`Layers of ${trace.name}`} class="layers" columns={COLUMNS}>
      {trace.layers.map((layer) => (
        <LayerRow key={layer.index} layer={layer} />
      ))}
    </ScrollTable>
  );
}

function LayerRow({ layer }: { layer: Layer }) {
  const score = (value: number | null) => (value === null ? "–" : formatScore(value));
  return (
    <tr>
      <th scope="row" title={layer.path}>
        {layer.index}
      </th>
      <td>
        <StatusWord status={layer.verdict.status} />
      </td>
      <td>{layer.max_over_mean === null ? "–" : formatTimes(layer.max_over_mean)}</td>
      <td>{layer.dead}</td>
      <td>{score(layer.cv)}</td>
      <td>{score(layer.normalised_entropy)}</td>
      <td>{layer.drop_fraction === null ? "–" : formatPercent(layer.drop_fraction)}</td>
      <td>{score(layer.margin?.[2] ?? null)}</td>
      <td class="words">{layer.verdict.sentence}</td>
    </tr>
  );
}
