import type { Trace } from "../data/trace";
import { formatCount, formatNumberOf, formatPercent } from "../format";
import type { WalkFacts } from "./facts";
import { sayDropped } from "./steps";

/** Step 4: what ran, and what was saved. */
export function Run({ trace, facts }: { readonly trace: Trace; readonly facts: WalkFacts }) {
  const layer = trace.layer(facts.layer);
  const idle = layer.num_experts - facts.ran.length;
  const dropped = sayDropped(facts);
  const freeOfWork = facts.choices.filter((choice) => choice.expert >= layer.num_experts).length;
  return (
    <>
      <p class="big">
        <b>{formatPercent(facts.skippedFraction)}</b> skipped
      </p>
      <div class="share" role="img" aria-label={`${facts.ran.length} of ${layer.num_experts} experts run`}>
        <i style={{ width: `${(100 * facts.ran.length) / layer.num_experts}%` }} />
      </div>
      <p>
        Each expert is a small network with parameters of its own. The {formatCount(idle)} idle ones are not asked, not
        outvoted and not averaged in: their parameters are not even read for this token.
      </p>
      {layer.num_shared > 0 && (
        <p>Besides, {formatNumberOf(layer.num_shared, "shared expert runs", "shared experts run")} for every token.</p>
      )}
      {freeOfWork > 0 && (
        <p>{formatNumberOf(freeOfWork, "choice is an expert", "choices are experts")} without computation.</p>
      )}
      {dropped && <p>{dropped}</p>}
    </>
  );
}
