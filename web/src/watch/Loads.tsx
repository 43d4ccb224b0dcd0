import { useTheme } from "../draw/theme";
import { PALETTES } from "../draw/palette";
import { formatTimes } from "../format";
import type { LayerProgress } from "./progress";

const CELL_HEIGHT = 18;

/** Each layer's experts, coloured by their load; its verdict beside it in words. */
export function Loads({ layers }: { layers: readonly LayerProgress[] }) {
  const palette = PALETTES[useTheme("auto")];
  return (
    <table class="loads">
      <thead>
        <tr>
          <th scope="col">layer</th>
          <th scope="col">load of each expert</th>
          <th scope="col">busiest</th>
          <th scope="col">verdict</th>
        </tr>
      </thead>
      <tbody>
        {layers.map((layer, row) => (
          <tr key={row}>
            <th scope="row">{row}</th>
            <td>
              <svg
                viewBox={`0 0 ${layer.load.length} 1`}
                height={CELL_HEIGHT}
                preserveAspectRatio="none"
                aria-hidden="true"
              >
                {layer.load.map((load, expert) => (
                  <rect key={expert} x={expert} width={1} height={1} fill={palette.load(load)} />
                ))}
              </svg>
            </td>
            <td>{formatTimes(Math.max(...layer.load))}</td>
            <td>
              {layer.status}
              {layer.status !== "healthy" && <span class="fine"> {layer.sentence}</span>}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
