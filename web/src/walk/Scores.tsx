import type { ExpertScore, Trace } from "../data/trace";
import { useWidth } from "../draw/canvas";
import { formatScore } from "../format";
import type { WalkFacts } from "./facts";
import { ScoreChart } from "./ScoreChart";

/** Ranks that are listed after the last one picked. */
const LISTED_AFTER = 2;

/** Step 2: all experts' scores in order, and where the line falls. */
export function Scores({ trace, facts }: { readonly trace: Trace; readonly facts: WalkFacts }) {
  const [element, width] = useWidth<HTMLDivElement>();
  const layer = trace.layer(facts.layer);
  const { scores, choices } = facts;
  return (
    <>
      <div ref={element} class="chart">
        {scores && (
          <>
            <ScoreChart scores={scores} numPicked={choices.length} isBiased={layer.selects_on_bias} width={width} />
            <p class="fine">
              All experts, best first.
              {layer.selects_on_bias && " Bars: the score. Ticks: score and bias, which decide."}
            </p>
          </>
        )}
      </div>
      {scores ? (
        <ScoreTable
          scores={scores.slice(0, choices.length + LISTED_AFTER)}
          facts={facts}
          isBiased={layer.selects_on_bias}
        />
      ) : (
        <Unscored facts={facts} />
      )}
      {layer.formula && <p class="formula">{layer.formula}</p>}
    </>
  );
}

interface ScoreTableProps {
  readonly scores: readonly ExpertScore[];
  readonly facts: WalkFacts;
  readonly isBiased: boolean;
}

function ScoreTable({ scores, facts, isBiased }: ScoreTableProps) {
  const chosen = new Set(facts.choices.map((choice) => choice.expert));
  return (
    <table class="scores">
      <thead>
        <tr>
          <th scope="col">rank</th>
          <th scope="col">expert</th>
          <th scope="col">score</th>
          {isBiased && <th scope="col">with bias</th>}
        </tr>
      </thead>
      <tbody>
        {scores.map((score, rank) => (
          <tr key={score.expert} class={chosen.has(score.expert) ? "in" : "out"}>
            <td>{rank + 1}</td>
            <td>{score.expert}</td>
            <td>{formatScore(score.raw)}</td>
            {isBiased && <td>{formatScore(score.ranked)}</td>}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Unscored({ facts }: { facts: WalkFacts }) {
  return (
    <p>
      The scores of this token are not on the page: here are its choices.{" "}
      {facts.choices.map((choice) => choice.expert).join(", ")}. Traces that are recorded with logits show all.
    </p>
  );
}
