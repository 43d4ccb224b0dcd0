import { mean } from "d3-array";
import { useState } from "preact/hooks";
import type { Comparison } from "../data/comparison";
import type { LayerAgreement } from "../data/payload";
import type { Trace } from "../data/trace";
import { formatCount, formatPercent, formatScore } from "../format";
import { ScrollTable } from "../scroll-table";
import type { Select, Selection } from "../selection";
import { showToken } from "../text/tokens";

interface ComparisonViewProps {
  readonly traces: readonly Trace[];
  readonly comparison: Comparison;
  readonly selection: Selection;
  readonly select: Select;
}

const SHOWN = 10;

/** Where two traces of the same text part: the layers, and the tokens that changed most. */
export function ComparisonView(props: ComparisonViewProps) {
  const { comparison, traces } = props;
  return (
    <div class="comparison">
      <h3>A against B</h3>
      <p class="sentence">{comparison.facts.sentence}</p>
      <div class="comparison-parts">
        <div>
          <p>
            <b>Layer by layer.</b> How many of a token’s experts stayed, in the mean.
          </p>
          <AgreementTable layers={comparison.facts.layers} trace={traces[0] as Trace} />
        </div>
        <MostChanged {...props} />
      </div>
    </div>
  );
}

const COLUMNS = ["layer", "experts in common", "changed", "distance of loads"];

function AgreementTable({ layers, trace }: { layers: readonly LayerAgreement[]; trace: Trace }) {
  return (
    <ScrollTable label="Agreement, layer by layer" columns={COLUMNS}>
      {layers.map((layer, l) => (
        <tr key={trace.layer(l).index}>
          <th scope="row">{trace.layer(l).index}</th>
          <td>{formatPercent(layer.overlap)}</td>
          <td>{formatPercent(layer.flips)}</td>
          <td>{formatScore(layer.js_distance)}</td>
        </tr>
      ))}
    </ScrollTable>
  );
}

function MostChanged({ traces, comparison, selection, select }: ComparisonViewProps) {
  const [numShown, setNumShown] = useState(SHOWN);
  const trace = traces[0] as Trace;
  return (
    <div>
      <p>
        <b>Most changed tokens.</b> A bar for each layer, high where few experts are in common.
      </p>
      <ol class="changed">
        {comparison.mostChanged.slice(0, numShown).map((pair) => {
          const token = comparison.tokenOf(pair, 0);
          const overlaps = trace.layers.map((layer, l) => comparison.overlap(l, pair) / layer.top_k);
          return (
            <li key={pair}>
              <button
                type="button"
                aria-pressed={selection.tokens[0] === token}
                onClick={() => select({ tokens: comparison.tokens(0, token) })}
              >
                <span class="chip plain">
                  <bdi>{showToken(trace.text(token), trace.ofToken("token_ids", token))}</bdi>
                </span>
                <span class="fine">token {formatCount(token)}</span>
                <ChangeStrip overlaps={overlaps} />
                {formatPercent(mean(overlaps) ?? 1)} in common
              </button>
            </li>
          );
        })}
      </ol>
      {numShown < comparison.mostChanged.length && (
        <button type="button" onClick={() => setNumShown(numShown + 40)}>
          more
        </button>
      )}
    </div>
  );
}

const STRIP_WIDTH = 120;
const STRIP_HEIGHT = 18;

function ChangeStrip({ overlaps }: { overlaps: readonly number[] }) {
  const width = STRIP_WIDTH / overlaps.length;
  return (
    <svg class="sparkline" width={STRIP_WIDTH} height={STRIP_HEIGHT} aria-hidden="true">
      {overlaps.map((overlap, l) => (
        <rect
          key={l}
          x={l * width}
          y={STRIP_HEIGHT * overlap - 1}
          width={Math.max(1, width - 1)}
          height={STRIP_HEIGHT * (1 - overlap) + 1}
        />
      ))}
    </svg>
  );
}
