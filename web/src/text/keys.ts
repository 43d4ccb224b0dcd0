import { type Line, lineOf } from "./lines";

const PAGE = 10;

/** The token that a key leads to from another; null for other keys. */
export function moveToken(lines: readonly Line[], token: number, key: string): number | null {
  if (lines.length === 0) return null;
  const at = lineOf(lines, token);
  const line = lines[at] as Line;
  const numTokens = (lines[lines.length - 1] as Line).end;
  const jump = (by: number) => {
    const target = lines[Math.max(0, Math.min(lines.length - 1, at + by))] as Line;
    return Math.min(target.begin + (token - line.begin), target.end - 1);
  };
  switch (key) {
    case "ArrowLeft":
      return Math.max(0, token - 1);
    case "ArrowRight":
      return Math.min(numTokens - 1, token + 1);
    case "ArrowUp":
      return jump(-1);
    case "ArrowDown":
      return jump(1);
    case "PageUp":
      return jump(-PAGE);
    case "PageDown":
      return jump(PAGE);
    case "Home":
      return line.begin;
    case "End":
      return line.end - 1;
    default:
      return null;
  }
}
