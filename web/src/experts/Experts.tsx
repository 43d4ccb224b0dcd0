import { useMemo, useState } from "preact/hooks";
import type { Trace } from "../data/trace";
import { formatCount, formatLift, formatTimes } from "../format";
import { orderExperts } from "../map/orders";
import { ScrollTable } from "../scroll-table";
import type { Select, Selection } from "../selection";
import { type ExpertFacts, gatherExpert, saySpecialisation } from "./facts";
import { Sparkline } from "./Sparkline";

interface ExpertsProps {
  readonly trace: Trace;
  readonly selection: Selection;
  readonly select: Select;
}

/** So many are shown at first. */
const SHOWN = 12;

const COLUMNS = ["expert", "load", "over the trace", "takes most", "chosen together with"];

/** What each expert of the layer takes, with whom, and when. */
export function Experts({ trace, selection, select }: ExpertsProps) {
  const [isAll, setAll] = useState(false);
  const { layer, expert: selected } = selection;
  const order = useMemo(() => orderExperts(trace, true)[layer] ?? [], [trace, layer]);
  const first = order.slice(0, SHOWN);
  const shown = isAll ? order : first.includes(selected) || !order.includes(selected) ? first : [selected, ...first];
  const sentence = saySpecialisation(trace, layer);
  const layerName = trace.layer(layer).index;
  return (
    <div class="experts">
      {sentence && <p>{sentence}</p>}
      <ScrollTable label={`Experts of layer ${layerName} of ${trace.name}`} columns={COLUMNS}>
        {shown.map((expert) => (
          <ExpertRow
            key={expert}
            facts={gatherExpert(trace, layer, expert)}
            isSelected={expert === selected}
            choose={() => select({ expert, quantity: "expert" })}
          />
        ))}
      </ScrollTable>
      {order.length > first.length && (
        <button type="button" onClick={() => setAll(!isAll)}>
          {isAll ? `the busiest ${SHOWN}` : `all ${formatCount(order.length)} experts`}
        </button>
      )}
    </div>
  );
}

interface ExpertRowProps {
  readonly facts: ExpertFacts;
  readonly isSelected: boolean;
  readonly choose: () => void;
}

function ExpertRow({ facts, isSelected, choose }: ExpertRowProps) {
  const { expert, rows, load, tokens, partners, bins } = facts;
  return (
    <tr class={isSelected ? "selected" : undefined}>
      <th scope="row">
        <button type="button" aria-pressed={isSelected} title="Colour the text by this expert" onClick={choose}>
          {expert}
        </button>
      </th>
      <td>
        {rows ? formatTimes(load) : "never used"}
        <span class="fine"> {formatCount(rows)} rows</span>
      </td>
      <td>
        <Sparkline values={bins} />
      </td>
      <td class="tokens">
        {tokens.map(({ text, count, lift }, i) => (
          <span
            key={i}
            class="chip plain"
            title={`${formatCount(count)} rows, ${formatTimes(lift)} its share of all tokens`}
          >
            <bdi>{text}</bdi>
            <sub>{formatLift(lift)}</sub>
          </span>
        ))}
        {tokens.length === 0 && "–"}
      </td>
      <td>
        {partners.map(({ expert: partner, lift }) => (
          <span key={partner} class="partner">
            {partner}
            <sub>{formatLift(lift)}</sub>
          </span>
        ))}
        {partners.length === 0 && "–"}
      </td>
    </tr>
  );
}
