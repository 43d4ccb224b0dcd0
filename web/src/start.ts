import type { Trace } from "./data/trace";

/** The token to begin with: among those whose scores are on the page, or all, the longest word of the middle third. */
export function startToken(trace: Trace): number {
  const scored = Array.from(trace.scoredTokens());
  const all = scored.length ? scored : Array.from({ length: trace.numTokens }, (_, token) => token);
  const third = Math.floor(all.length / 3);
  const middle = all.length < 9 ? all : all.slice(third, all.length - third);
  const length = (token: number) =>
    /^ ?\p{L}+$/u.test(trace.text(token) ?? "") ? (trace.text(token)?.length ?? 0) : 0;
  return middle.reduce((best, token) => (length(token) > length(best) ? token : best), middle[0] ?? 0);
}
