import { useEffect, useId, useMemo, useRef, useState } from "preact/hooks";
import type { Comparison } from "../data/comparison";
import type { Trace } from "../data/trace";
import { useWidth } from "../draw/canvas";
import { useMedia } from "../draw/theme";
import type { Select, Selection } from "../selection";
import { CHIP_FONT, CHIP_GAP, Chip, chipWidth } from "./Chip";
import { moveToken } from "./keys";
import { type Line, layLines, lineOf, linesInSight } from "./lines";
import { Search, useSearch } from "./Search";
import { useQuantity } from "./TextControls";
import { showToken } from "./tokens";

const LINE_HEIGHT = 28;
const HEIGHT = 420;
/** A printed page shows the text from its beginning, and says how far. */
const PRINTED_LINES = 60;
/** What an A4 page has beside its margins, in CSS pixels. */
const PRINTED_WIDTH = 660;

interface TextViewProps {
  readonly trace: Trace;
  readonly side: number;
  readonly comparison: Comparison | null;
  readonly selection: Selection;
  readonly select: Select;
}

/** The tokens as chips. Only the lines in sight are in the document, so that thousands scroll smoothly. */
export function TextView({ trace, side, comparison, selection, select }: TextViewProps) {
  const [frame, width] = useWidth<HTMLDivElement>();
  const id = useId();
  const isPrint = useMedia("print");
  const quantity = useQuantity(trace, side, selection, comparison);
  const search = useSearch(trace);
  const token = selection.tokens[side] ?? null;
  const numDigits = quantity.isExpert ? String(trace.numExperts(selection.layer) - 1).length : 0;
  const widths = useMemo(() => measureChips(trace, numDigits), [trace, numDigits]);
  const frameWidth = isPrint ? Math.min(width, PRINTED_WIDTH) : width;
  const lines = useMemo(() => layTokens(trace, widths, frameWidth), [trace, widths, frameWidth]);
  const [first, last] = useScroll(frame, lines, token);
  const [begin, end] = isPrint ? [0, Math.min(PRINTED_LINES, lines.length)] : [first, Math.min(last, lines.length)];
  const choose = (chosen: number) => select({ tokens: comparison?.tokens(side, chosen) ?? [chosen] });
  return (
    <div class="text">
      <Search search={search} current={token} choose={choose} />
      <div
        ref={frame}
        class="text-frame"
        style={{ height: isPrint ? "auto" : `${Math.min(HEIGHT, lines.length * LINE_HEIGHT + 2)}px` }}
        role="listbox"
        aria-label={`Tokens of ${trace.name}`}
        aria-activedescendant={token === null ? undefined : `${id}-${token}`}
        tabIndex={0}
        onKeyDown={(event) => {
          if (event.key === "Enter") goToWalk(event.currentTarget);
          const next = moveToken(lines, token ?? 0, event.key);
          if (next === null) return;
          event.preventDefault();
          choose(next);
        }}
      >
        <div class="lines" role="none" style={{ height: `${(isPrint ? end : lines.length) * LINE_HEIGHT}px` }}>
          {lines.slice(begin, end).map((line, i) => (
            <div key={line.begin} class="line" role="none" style={{ top: `${(begin + i) * LINE_HEIGHT}px` }}>
              {tokensOf(line).map((t) => (
                <Chip
                  key={t}
                  id={`${id}-${t}`}
                  trace={trace}
                  token={t}
                  width={widths[t] as number}
                  quantity={quantity}
                  isSelected={t === token}
                  isFound={search.isFound(t)}
                  onChoose={choose}
                />
              ))}
            </div>
          ))}
        </div>
      </div>
      {isPrint && end < lines.length && (
        <p class="fine">
          Printed as far as line {end} of {lines.length}.
        </p>
      )}
    </div>
  );
}

/** The walk is in the same tree: the document, or a notebook's shadow root. */
function goToWalk(element: HTMLElement): void {
  (element.getRootNode() as Document | ShadowRoot).getElementById("walk")?.focus();
}

function tokensOf({ begin, end }: Line): number[] {
  return Array.from({ length: end - begin }, (_, i) => begin + i);
}

function measureChips(trace: Trace, numDigits: number): Float32Array {
  const context = document.createElement("canvas").getContext("2d");
  if (context) context.font = CHIP_FONT;
  const known = new Map<string, number>();
  const measure = (text: string) => context?.measureText(text).width ?? text.length * 8;
  return Float32Array.from({ length: trace.numTokens }, (_, token) => {
    const text = showToken(trace.text(token), trace.ofToken("token_ids", token));
    const width = known.get(text) ?? chipWidth(text, measure, numDigits);
    known.set(text, width);
    return width;
  });
}

function layTokens(trace: Trace, widths: Float32Array, width: number): Line[] {
  if (width <= 0) return [];
  const starts = new Set(trace.arrays.seq_offsets?.data ?? []);
  return layLines(widths, {
    width: width - 16,
    gap: CHIP_GAP,
    breaksBefore: (token) => starts.has(token),
    // Of blank lines, only the last ends a line.
    breaksAfter: (token) => endsLine(trace.text(token)) && !isBlank(trace.text(token + 1)),
  });
}

function endsLine(text: string | null): boolean {
  return text?.includes("\n") ?? false;
}

function isBlank(text: string | null): boolean {
  return endsLine(text) && text?.trim() === "";
}

/** Which lines are in sight; the selected token is brought there. */
function useScroll(frame: { current: HTMLDivElement | null }, lines: readonly Line[], token: number | null) {
  const [top, setTop] = useState(0);
  const wasFirst = useRef(true);
  useEffect(() => {
    const element = frame.current;
    if (!element) return;
    const update = () => setTop(Math.floor(element.scrollTop / LINE_HEIGHT) * LINE_HEIGHT);
    element.addEventListener("scroll", update, { passive: true });
    return () => element.removeEventListener("scroll", update);
  }, [frame]);
  useEffect(() => {
    const element = frame.current;
    if (!element || token === null || lines.length === 0) return;
    const y = lineOf(lines, token) * LINE_HEIGHT;
    const isInSight = y >= element.scrollTop && y + LINE_HEIGHT <= element.scrollTop + element.clientHeight;
    if (!isInSight) element.scrollTop = Math.max(0, y - (wasFirst.current ? 5 : 2) * LINE_HEIGHT);
    wasFirst.current = false;
  }, [frame, lines, token]);
  return linesInSight(top, HEIGHT, LINE_HEIGHT, lines.length);
}
