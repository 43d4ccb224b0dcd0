/** Colours for canvases; what CSS can colour is in src/styles. All pass the common forms of colour blindness: blue and
 * orange differ in lightness too, and no meaning hangs on colour alone. */

import { scaleLinear } from "d3-scale";

export type Theme = "light" | "dark";

export interface Palette {
  readonly ink: string;
  readonly muted: string;
  readonly rule: string;
  readonly accent: string;
  readonly paper: string;
  /** An expert that no token reached. */
  readonly dead: string;
  /** Colour of a load, as a multiple of an even share. */
  readonly load: (times: number) => string;
}

/** Loads beyond a quarter and four times an even share have the colours of these. */
function makeLoad(stops: readonly string[], dead: string): (times: number) => string {
  const scale = scaleLinear<string>().domain([-2, -1, 0, 1, 2]).range(stops).clamp(true);
  return (times) => (times > 0 ? scale(Math.log2(times)) : dead);
}

export const PALETTES: Readonly<Record<Theme, Palette>> = {
  light: {
    ink: "#1c1e22",
    muted: "#5a5f69",
    rule: "#dcd8cf",
    accent: "#a8420a",
    paper: "#fbfaf7",
    dead: "#0d0f13",
    load: makeLoad(["#24507f", "#7fa3c7", "#ece8df", "#eea25a", "#b3480b"], "#0d0f13"),
  },
  dark: {
    ink: "#ebe8e1",
    muted: "#a3a7af",
    rule: "#33373e",
    accent: "#ffa24d",
    paper: "#15171b",
    dead: "#000000",
    load: makeLoad(["#1d4d86", "#35597f", "#565a60", "#b4773a", "#ffb04a"], "#000000"),
  },
};

/** Experts by number: so many hues, told apart further by the number on the chip. */
export const NUM_HUES = 8;
