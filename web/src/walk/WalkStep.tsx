import { useMemo } from "preact/hooks";
import type { Trace } from "../data/trace";
import { quoteToken } from "../text/tokens";
import { Combine } from "./Combine";
import { Context } from "./Context";
import { gatherFacts } from "./facts";
import { House } from "./House";
import { Parallel } from "./Parallel";
import { Pick } from "./Pick";
import { Run } from "./Run";
import { Scores } from "./Scores";
import { sayStep } from "./steps";

interface WalkStepProps {
  readonly trace: Trace;
  readonly layer: number;
  readonly token: number;
  readonly step: number;
  /** Whether a screen reader announces its sentence: of two traces, only the first's. */
  readonly isAnnounced: boolean;
}

const BODIES = [Context, Scores, Pick, Run, Parallel, Combine];

export function WalkStep({ trace, layer, token, step, isAnnounced }: WalkStepProps) {
  const facts = useMemo(() => gatherFacts(trace, layer, token), [trace, layer, token]);
  const Body = BODIES[step] ?? Context;
  const quoted = quoteToken(trace.text(token), trace.ofToken("token_ids", token));
  return (
    <div class="step" data-step={step}>
      <div class="step-words">
        <p class="sentence" aria-live={isAnnounced ? "polite" : "off"}>
          {sayStep(step, facts, trace.layer(layer), quoted)}
        </p>
        <Body trace={trace} facts={facts} />
      </div>
      <House facts={facts} step={step} />
    </div>
  );
}
