import { useMemo, useState } from "preact/hooks";
import type { Trace } from "../data/trace";
import { formatCount } from "../format";
import { findTokens } from "./tokens";

interface SearchState {
  readonly wanted: string;
  readonly setWanted: (wanted: string) => void;
  /** Tokens where the text begins. */
  readonly found: readonly number[];
  readonly isFound: (token: number) => boolean;
}

export function useSearch(trace: Trace): SearchState {
  const [wanted, setWanted] = useState("");
  const strings = useMemo(() => Array.from({ length: trace.numTokens }, (_, token) => trace.text(token)), [trace]);
  const found = useMemo(() => findTokens(strings, wanted), [strings, wanted]);
  const all = useMemo(() => new Set(found), [found]);
  return { wanted, setWanted, found, isFound: (token) => all.has(token) };
}

interface SearchProps {
  readonly search: SearchState;
  readonly current: number | null;
  readonly choose: (token: number) => void;
}

export function Search({ search, current, choose }: SearchProps) {
  const { wanted, setWanted, found } = search;
  const place = found.indexOf(current ?? -1);
  const go = (by: 1 | -1) => {
    const ahead =
      by > 0 ? found.find((token) => token > (current ?? -1)) : found.findLast((token) => token < (current ?? 0));
    const target = ahead ?? found[by > 0 ? 0 : found.length - 1];
    if (target !== undefined) choose(target);
  };
  const count = found.length ? `${place < 0 ? "" : `${place + 1} of `}${formatCount(found.length)} found` : "not found";
  return (
    <search class="search">
      <label>
        find{" "}
        <input
          type="search"
          value={wanted}
          spellcheck={false}
          onInput={(event) => setWanted(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== "Enter") return;
            go(event.shiftKey ? -1 : 1);
            event.preventDefault();
          }}
        />
      </label>
      {wanted && (
        <>
          <button type="button" onClick={() => go(-1)} disabled={found.length === 0}>
            previous
          </button>
          <button type="button" onClick={() => go(1)} disabled={found.length === 0}>
            next
          </button>
          <span aria-live="polite">{count}</span>
        </>
      )}
    </search>
  );
}
