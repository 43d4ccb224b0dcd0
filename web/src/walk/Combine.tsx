import { sum } from "d3-array";
import type { Choice, Trace } from "../data/trace";
import { formatScore } from "../format";
import type { WalkFacts } from "./facts";
import { sayNorms, saySum, sayWeights } from "./steps";

/** Step 6: the weights, and the one vector that leaves. */
export function Combine({ trace, facts }: { readonly trace: Trace; readonly facts: WalkFacts }) {
  const layer = trace.layer(facts.layer);
  const parts = facts.choices.filter((choice) => !choice.isDropped);
  const sentences = [sayWeights(facts, layer), sayNorms(facts), saySum(facts)].filter((text) => text !== null);
  const hasNorms = parts.some((choice) => choice.norm !== null);
  return (
    <>
      <WeightBar choices={parts} />
      <table class="scores">
        <thead>
          <tr>
            <th scope="col">part</th>
            <th scope="col">weight</th>
            {hasNorms && <th scope="col">length of what it adds</th>}
          </tr>
        </thead>
        <tbody>
          {parts.map(({ expert, weight, norm }) => (
            <tr key={expert}>
              <td>
                expert {expert}
                {expert >= layer.num_experts && ", hands the token through"}
              </td>
              <td>{formatScore(weight)}</td>
              {hasNorms && <td>{formatScore(norm)}</td>}
            </tr>
          ))}
          {layer.num_shared > 0 && (
            <tr>
              <td>{layer.num_shared === 1 ? "shared expert" : `${layer.num_shared} shared experts`}</td>
              <td>always</td>
              {hasNorms && <td>{formatScore(facts.sharedNorm)}</td>}
            </tr>
          )}
        </tbody>
      </table>
      {sentences.map((sentence) => (
        <p key={sentence}>{sentence}</p>
      ))}
      {!hasNorms && (
        <p class="fine">
          The lengths of the experts’ outputs were not recorded with this trace: what each added is not shown.
        </p>
      )}
    </>
  );
}

/** Weights as parts of their sum. A negative weight can't be a part: then only the table shows them. */
function WeightBar({ choices }: { choices: readonly Choice[] }) {
  const total = sum(choices, (choice) => choice.weight ?? 0);
  if (total <= 0 || choices.some((choice) => (choice.weight ?? -1) < 0)) return null;
  return (
    <div
      class="weights"
      role="img"
      aria-label={choices.map((c) => `expert ${c.expert}: ${formatScore(c.weight)}`).join(", ")}
    >
      {choices.map(({ expert, weight }) => (
        <span key={expert} style={{ flexGrow: (weight ?? 0) / total }}>
          {(weight ?? 0) / total > 0.07 ? expert : ""}
        </span>
      ))}
    </div>
  );
}
