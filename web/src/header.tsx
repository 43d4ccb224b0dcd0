import type { Trace } from "./data/trace";
import type { ThemeChoice } from "./draw/theme";

interface HeaderProps {
  readonly title: string;
  readonly traces: readonly Trace[];
  readonly theme: ThemeChoice;
  readonly setTheme: (choice: ThemeChoice) => void;
  /** Parts that this page may lack. */
  readonly has: Readonly<Record<string, boolean>>;
}

const PLACES: readonly (readonly [string, string])[] = [
  ["verdict", "Verdict"],
  ["map", "Map"],
  ["text", "Text"],
  ["walk", "Walk"],
  ["experts", "Experts"],
  ["size", "Size"],
  ["limits", "Limits"],
];

export function Header({ title, traces, theme, setTheme, has }: HeaderProps) {
  const places = PLACES.filter(([id]) => has[id] ?? true);
  const notes = [...new Set(traces.flatMap(({ facts }) => [facts.note, facts.cut].filter((text) => text !== null)))];
  return (
    <header>
      <div class="top">
        <nav aria-label="Parts of this page">
          {places.map(([id, name]) => (
            <a key={id} href={`#${id}`} onClick={goTo}>
              {name}
            </a>
          ))}
        </nav>
        <label class="theme">
          <span>Colours</span>
          <select
            aria-label="Colours"
            value={theme}
            onChange={(event) => setTheme(event.currentTarget.value as ThemeChoice)}
          >
            <option value="auto">as the system</option>
            <option value="light">light</option>
            <option value="dark">dark</option>
          </select>
        </label>
      </div>
      <h1>{title}</h1>
      {notes.map((note) => (
        <p key={note} class="note">
          {note}
        </p>
      ))}
    </header>
  );
}

/** In a notebook the page lives in a shadow tree, where a link to a part finds nothing by itself. */
function goTo(event: MouseEvent & { readonly currentTarget: HTMLAnchorElement }) {
  const root = event.currentTarget.getRootNode() as Document | ShadowRoot;
  event.preventDefault();
  root.getElementById(event.currentTarget.hash.slice(1))?.scrollIntoView();
}
