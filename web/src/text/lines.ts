/** Chips into lines, so that only the lines in sight need be drawn. */

export interface Line {
  /** First token, and the one after the last. */
  readonly begin: number;
  readonly end: number;
}

export interface LineRules {
  readonly width: number;
  readonly gap: number;
  /** Whether a token begins a sequence, and so a line. */
  readonly breaksBefore: (token: number) => boolean;
  /** Whether a token ends a line of text. */
  readonly breaksAfter: (token: number) => boolean;
}

/** Fill lines greedily; a chip wider than a line has one to itself. */
export function layLines(widths: ArrayLike<number>, rules: LineRules): Line[] {
  const lines: Line[] = [];
  let begin = 0;
  let used = 0;
  const close = (end: number) => {
    if (end > begin) lines.push({ begin, end });
    begin = end;
    used = 0;
  };
  for (let token = 0; token < widths.length; token++) {
    const width = widths[token] as number;
    const needed = used ? used + rules.gap + width : width;
    if (rules.breaksBefore(token) || needed > rules.width) close(token);
    used = used ? used + rules.gap + width : width;
    if (rules.breaksAfter(token)) close(token + 1);
  }
  close(widths.length);
  return lines;
}

/** The line that holds a token: the last that begins at or before it. */
export function lineOf(lines: readonly Line[], token: number): number {
  let low = 0;
  let high = lines.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((lines[middle] as Line).begin <= token) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** The lines that a scrolled window shows, with some before and after. */
export function linesInSight(
  scrollTop: number,
  height: number,
  lineHeight: number,
  numLines: number,
): readonly [number, number] {
  const margin = 6;
  const first = Math.max(0, Math.floor(scrollTop / lineHeight) - margin);
  const last = Math.min(numLines, Math.ceil((scrollTop + height) / lineHeight) + margin);
  return [Math.min(first, last), last];
}
