import type { Trace } from "../data/trace";
import { NUM_HUES } from "../draw/palette";
import type { Quantity } from "./quantities";
import { showToken } from "./tokens";

export const CHIP_FONT = "13px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace";
export const CHIP_GAP = 2;
const PADDING = 4;
const DIGIT_WIDTH = 6;

/** The width of a token's chip; one for an expert's number is kept beside it. */
export function chipWidth(text: string, measure: (text: string) => number, numDigits: number): number {
  return Math.ceil(measure(text)) + 2 * PADDING + (numDigits ? numDigits * DIGIT_WIDTH + 2 : 0);
}

interface ChipProps {
  readonly trace: Trace;
  readonly token: number;
  readonly id: string;
  readonly width: number;
  readonly quantity: Quantity;
  readonly isSelected: boolean;
  readonly isFound: boolean;
  readonly onChoose: (token: number) => void;
}

export function Chip({ trace, token, id, width, quantity, isSelected, isFound, onChoose }: ChipProps) {
  const value = quantity.value(token);
  const text = showToken(trace.text(token), trace.ofToken("token_ids", token));
  const className = ["chip", isFound && "found", value === null && "blank"].filter(Boolean).join(" ");
  return (
    <span
      id={id}
      class={className}
      role="option"
      aria-selected={isSelected}
      aria-posinset={token + 1}
      aria-setsize={trace.numTokens}
      aria-label={`${text}, ${quantity.label(token)}`}
      title={quantity.label(token)}
      data-token={token}
      data-hue={quantity.isExpert && value !== null ? value % NUM_HUES : undefined}
      style={{ width: `${width}px`, "--amount": quantity.isExpert || value === null ? 0 : value.toFixed(3) }}
      onClick={() => onChoose(token)}
    >
      <bdi>{text}</bdi>
      {quantity.isExpert && value !== null && <sub>{value}</sub>}
    </span>
  );
}
