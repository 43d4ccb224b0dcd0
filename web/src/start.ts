import type { Trace } from "./data/trace";

/** So many tokens of context make a token worth following. */
const CONTEXT = 12;

/** The token to begin with: the longest word of the middle third, with context and with scores where there are any. */
export function startToken(trace: Trace): number {
  const scored = Array.from(trace.scoredTokens());
  const all = scored.length ? scored : Array.from({ length: trace.numTokens }, (_, token) => token);
  const third = all.length < 9 ? 0 : Math.floor(all.length / 3);
  const middle = all.slice(third, all.length - third);
  const hasContext = middle.filter((token) => token - trace.sequence(token)[0] >= CONTEXT);
  const candidates = hasContext.length ? hasContext : middle;
  return candidates.reduce(
    (best, token) => (wordLength(trace, token) > wordLength(trace, best) ? token : best),
    candidates[0] ?? 0,
  );
}

function wordLength(trace: Trace, token: number): number {
  const text = trace.text(token) ?? "";
  return /^ ?\p{L}+$/u.test(text) ? text.length : 0;
}
