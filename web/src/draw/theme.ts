import { createContext } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";
import { PALETTES, type Palette, type Theme } from "./palette";

/** What the person chose; "auto" follows the system. */
export type ThemeChoice = "auto" | Theme;

/** Whether a media query holds now. */
export function useMedia(query: string): boolean {
  const [holds, setHolds] = useState(() => matchMedia(query).matches);
  useEffect(() => {
    const media = matchMedia(query);
    const update = () => setHolds(media.matches);
    update();
    media.addEventListener("change", update);
    return () => media.removeEventListener("change", update);
  }, [query]);
  return holds;
}

/** The theme to draw in: paper is always light. */
export function useTheme(choice: ThemeChoice): Theme {
  const isDark = useMedia("(prefers-color-scheme: dark)");
  const isPrint = useMedia("print");
  if (isPrint) return "light";
  return choice === "auto" ? (isDark ? "dark" : "light") : choice;
}

export const ThemeContext = createContext<Theme>("light");

export function usePalette(): Palette {
  return PALETTES[useContext(ThemeContext)];
}
