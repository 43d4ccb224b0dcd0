import { max } from "d3-array";
import { scaleLinear } from "d3-scale";
import type { Trace } from "../data/trace";
import { useWidth } from "../draw/canvas";
import { formatCount } from "../format";
import { showToken } from "../text/tokens";
import type { WalkFacts } from "./facts";

interface StepProps {
  readonly trace: Trace;
  readonly facts: WalkFacts;
}

const HEIGHT = 104;
const BASE = 100;
const TOP = 16;
/** Of the tokens that share an expert, so many are written out. */
const SHOWN_TOKENS = 14;

/** Step 5: the pass's tokens, regrouped by expert. */
export function Parallel({ trace, facts }: StepProps) {
  const [element, width] = useWidth<HTMLDivElement>();
  return (
    <>
      <div ref={element} class="chart">
        <RowChart facts={facts} width={width} />
        <p class="fine">Rows of each expert, by number. Dashed: an even share. Coloured: this token’s experts.</p>
      </div>
      <dl class="together">
        {facts.ran.map(({ expert }) => (
          <Companions key={expert} trace={trace} facts={facts} expert={expert} />
        ))}
      </dl>
      {facts.pass.id === null && (
        <p class="fine">This trace does not tell forward passes apart: these are the tokens of the sequence.</p>
      )}
      {trace.facts.cut && <p class="fine">Only tokens on this page are counted here.</p>}
    </>
  );
}

function RowChart({ facts, width }: { facts: WalkFacts; width: number }) {
  const { rows, evenRows, slowest } = facts;
  const y = scaleLinear()
    .domain([0, max(rows) || 1])
    .range([BASE, TOP]);
  const column = width / rows.length;
  const mine = new Set(facts.ran.map((choice) => choice.expert));
  const isRight = slowest > rows.length / 2;
  return (
    <svg
      width={width}
      height={HEIGHT}
      viewBox={`0 0 ${width} ${HEIGHT}`}
      role="img"
      aria-label="Rows of each expert in this pass"
    >
      {rows.map((count, expert) => (
        <rect
          key={expert}
          class={mine.has(expert) ? "bar in" : "bar out"}
          x={expert * column}
          y={y(count)}
          width={Math.max(0.8, column - (column > 4 ? 2 : 0.4))}
          height={BASE - y(count)}
        />
      ))}
      <line class="axis" x1={0} x2={width} y1={BASE + 0.5} y2={BASE + 0.5} />
      <line class="even" x1={0} x2={width} y1={y(evenRows)} y2={y(evenRows)} />
      <text x={isRight ? (slowest + 1) * column : slowest * column} y={10} text-anchor={isRight ? "end" : "start"}>
        expert {slowest}: {formatCount(rows[slowest] ?? 0)} rows
      </text>
    </svg>
  );
}

function Companions({ trace, facts, expert }: StepProps & { expert: number }) {
  const others = (facts.pass.tokensOf[expert] ?? []).filter((token) => token !== facts.token);
  const rest = others.length - SHOWN_TOKENS;
  return (
    <div>
      <dt>
        expert {expert}, {formatCount(others.length + 1)} rows
      </dt>
      <dd>
        {others.length === 0 && "for this token alone"}
        {nearest(others, facts.token).map((token) => (
          <span key={token} class="chip plain">
            <bdi>{showToken(trace.text(token), trace.ofToken("token_ids", token))}</bdi>
          </span>
        ))}
        {rest > 0 && <span class="fine"> and {formatCount(rest)} more</span>}
      </dd>
    </div>
  );
}

/** The tokens that stand nearest, in the order of the text. */
function nearest(tokens: readonly number[], token: number): number[] {
  return [...tokens]
    .sort((a, b) => Math.abs(a - token) - Math.abs(b - token))
    .slice(0, SHOWN_TOKENS)
    .sort((a, b) => a - b);
}
