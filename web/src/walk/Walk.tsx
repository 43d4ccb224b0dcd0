import type { Comparison } from "../data/comparison";
import type { Trace } from "../data/trace";
import { useMedia } from "../draw/theme";
import type { Select, Selection } from "../selection";
import { Sides } from "../sides";
import { LayerSelect } from "../text/LayerSelect";
import { quoteToken } from "../text/tokens";
import { STEPS } from "./steps";
import { WalkStep } from "./WalkStep";

interface WalkProps {
  readonly traces: readonly Trace[];
  readonly comparison: Comparison | null;
  readonly selection: Selection;
  readonly select: Select;
}

/** One token through one layer, in six steps: next, back, or the arrow keys. */
export function Walk({ traces, comparison, selection, select }: WalkProps) {
  const { step } = selection;
  const isPrint = useMedia("print");
  // Paper can't be turned to the next step: it has them all.
  const shown = isPrint ? STEPS.map((_, i) => i) : [step];
  const go = (to: number) => select({ step: Math.max(0, Math.min(STEPS.length - 1, to)) });
  return (
    <section
      id="walk"
      aria-labelledby="walk-title"
      tabIndex={-1}
      onKeyDown={(event) => {
        const by = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
        if (by === 0 || isField(event.target)) return;
        event.preventDefault();
        go(step + by);
      }}
    >
      <h2 id="walk-title">One token, one layer, six steps</h2>
      <WalkControls traces={traces} comparison={comparison} selection={selection} select={select} />
      <nav aria-label="Steps">
        <ol class="steps">
          {STEPS.map((name, i) => (
            <li key={name}>
              <button type="button" aria-current={i === step ? "step" : undefined} onClick={() => go(i)}>
                <b>{i + 1}</b> {name}
              </button>
            </li>
          ))}
        </ol>
      </nav>
      {shown.map((one) => (
        <Sides
          key={isPrint ? one : "step"}
          traces={traces}
          view={(trace, side) => {
            const token = selection.tokens[side] ?? null;
            if (token === null) return <p class="fine">This token has no counterpart in this trace.</p>;
            return <WalkStep trace={trace} layer={selection.layer} token={token} step={one} isAnnounced={side === 0} />;
          }}
        />
      ))}
      <div class="turn">
        <button type="button" onClick={() => go(step - 1)} disabled={step === 0}>
          ← back
        </button>
        <span>
          step {step + 1} of {STEPS.length}
        </span>
        <button type="button" onClick={() => go(step + 1)} disabled={step === STEPS.length - 1}>
          next →
        </button>
      </div>
    </section>
  );
}

function isField(target: EventTarget | null): boolean {
  return target instanceof HTMLInputElement || target instanceof HTMLSelectElement;
}

function WalkControls({ traces, comparison, selection, select }: WalkProps) {
  const side = selection.tokens[0] == null ? 1 : 0;
  const trace = traces[side] as Trace;
  const token = selection.tokens[side] ?? 0;
  const goTo = (to: number) => select({ tokens: comparison?.tokens(side, to) ?? [to] });
  const scored = trace.scoredTokens();
  const nearest = nearestScored(scored, token);
  return (
    <div class="controls">
      <span class="picked">
        token {token} <b>{quoteToken(trace.text(token), trace.ofToken("token_ids", token))}</b>
      </span>
      <span class="pager">
        <button type="button" aria-label="Previous token" disabled={token === 0} onClick={() => goTo(token - 1)}>
          ‹
        </button>
        <button
          type="button"
          aria-label="Next token"
          disabled={token === trace.numTokens - 1}
          onClick={() => goTo(token + 1)}
        >
          ›
        </button>
      </span>
      <LayerSelect trace={trace} selection={selection} select={select} />
      {nearest !== null && nearest !== token && (
        <button type="button" onClick={() => goTo(nearest)}>
          nearest token with all scores
        </button>
      )}
    </div>
  );
}

function nearestScored(scored: ArrayLike<number>, token: number): number | null {
  let best: number | null = null;
  for (const candidate of Array.from(scored)) {
    if (best === null || Math.abs(candidate - token) < Math.abs(best - token)) best = candidate;
  }
  return best;
}
