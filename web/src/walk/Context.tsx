import type { Trace } from "../data/trace";
import { showToken } from "../text/tokens";
import type { WalkFacts } from "./facts";

interface StepProps {
  readonly trace: Trace;
  readonly facts: WalkFacts;
}

const BEFORE = 60;
const AFTER = 24;
const PHASES = ["prompt", "generated", "rejected draft", "padding"];

/** Step 1: the token where it stands. */
export function Context({ trace, facts: { token } }: StepProps) {
  const [begin, end] = trace.sequence(token);
  const [from, to] = [Math.max(begin, token - BEFORE), Math.min(end, token + AFTER + 1)];
  const shown = showToken(trace.text(token), trace.ofToken("token_ids", token));
  const word = shown.trimStart();
  return (
    <>
      <blockquote class="context">
        {from > begin && "… "}
        {showText(trace, from, token)}
        {shown.slice(0, shown.length - word.length)}
        <mark>{word}</mark>
        <span class="after">{showText(trace, token + 1, to)}</span>
        {to < end && " …"}
      </blockquote>
      <p class="fine">
        The words before it count only as far as attention has already mixed them into those numbers. The pale ones come
        after it.
      </p>
      <Details trace={trace} token={token} />
    </>
  );
}

function Details({ trace, token }: { trace: Trace; token: number }) {
  const details = [
    ["token id", trace.ofToken("token_ids", token)],
    ["position", trace.ofToken("position", token)],
    ["phase", PHASES[trace.ofToken("phase", token) ?? -1] ?? null],
    ["forward pass", trace.ofToken("forward_id", token)],
  ].filter(([, value]) => value !== null);
  return (
    <dl class="details">
      {details.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** Running text keeps its spaces and lines; everything else that can't be seen is shown. */
function showText(trace: Trace, begin: number, end: number): string {
  let text = "";
  for (let token = begin; token < end; token++) {
    const string = trace.text(token);
    const isBlank = string !== null && /^[ \n]+$/.test(string);
    text += isBlank ? string : showToken(string, trace.ofToken("token_ids", token));
  }
  return text;
}
