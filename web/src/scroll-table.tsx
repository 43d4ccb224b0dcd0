import type { ComponentChildren } from "preact";

interface ScrollTableProps {
  /** What a screen reader calls it. */
  readonly label: string;
  readonly class?: string;
  readonly columns: readonly string[];
  /** The rows. */
  readonly children: ComponentChildren;
}

/** A table that scrolls within its place, by keyboard too. */
export function ScrollTable({ label, class: className, columns, children }: ScrollTableProps) {
  return (
    <section class="scroll" tabIndex={0} aria-label={label}>
      <table class={className}>
        <thead>
          <tr>
            {columns.map((name) => (
              <th key={name} scope="col">
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </section>
  );
}
