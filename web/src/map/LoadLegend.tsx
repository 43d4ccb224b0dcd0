import { usePalette } from "../draw/theme";

const STEPS: readonly (readonly [number, string])[] = [
  [0, "none"],
  [0.25, "≤ ¼"],
  [0.5, "½"],
  [1, "even"],
  [2, "2 ×"],
  [4, "≥ 4 ×"],
];

export function LoadLegend() {
  const palette = usePalette();
  return (
    <ul class="legend" aria-label="Load of an expert, as a multiple of an even share">
      {STEPS.map(([times, label]) => (
        <li key={label}>
          <i style={{ background: palette.load(times) }} />
          {label}
        </li>
      ))}
    </ul>
  );
}
