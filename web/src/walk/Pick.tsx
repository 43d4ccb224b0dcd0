import type { Trace } from "../data/trace";
import { formatScore } from "../format";
import type { WalkFacts } from "./facts";
import { sayDropped, sayMargin } from "./steps";

/** Step 3: who is in, and how narrowly. */
export function Pick({ facts }: { readonly trace: Trace; readonly facts: WalkFacts }) {
  const margin = sayMargin(facts);
  const dropped = sayDropped(facts);
  return (
    <>
      <ol class="picks">
        {facts.choices.map(({ expert, weight, isDropped }) => (
          <li key={expert} class={isDropped ? "dropped" : undefined}>
            expert <b>{expert}</b> {weight !== null && <span>weight {formatScore(weight)}</span>}{" "}
            {isDropped && <span>dropped</span>}
          </li>
        ))}
      </ol>
      {margin && <p>{margin}</p>}
      {dropped && <p>{dropped}</p>}
    </>
  );
}
