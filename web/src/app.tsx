import type { ComponentChildren } from "preact";
import { useCallback, useMemo, useState } from "preact/hooks";
import { Limits, Provenance } from "./about/About";
import { ComparisonView } from "./compare/ComparisonView";
import { Comparison } from "./data/comparison";
import type { Payload } from "./data/payload";
import { Trace } from "./data/trace";
import { type ThemeChoice, ThemeContext, useTheme } from "./draw/theme";
import { Experts } from "./experts/Experts";
import { Header } from "./header";
import { LoadMap } from "./map/LoadMap";
import { PassDistribution } from "./map/PassDistribution";
import type { Selection } from "./selection";
import { Sides } from "./sides";
import { SizeView } from "./size/SizeView";
import { SpeedView } from "./size/SpeedView";
import { startToken } from "./start";
import { LayerSelect } from "./text/LayerSelect";
import { TextControls } from "./text/TextControls";
import { TextView } from "./text/TextView";
import { VerdictView } from "./verdict/VerdictView";
import { Walk } from "./walk/Walk";

/** The whole page, from the verdict to the small print. The same in a file and in a notebook. */
export function App({ payload }: { payload: Payload }) {
  const traces = useMemo(() => payload.traces.map(({ facts, arrays }) => new Trace(facts, arrays)), [payload]);
  const comparison = useMemo(() => (payload.comparison ? new Comparison(payload.comparison) : null), [payload]);
  const [selection, setSelection] = useState<Selection>(() => firstSelection(traces, comparison));
  const [choice, setChoice] = useState<ThemeChoice>("auto");
  const select = useCallback((change: Partial<Selection>) => setSelection((before) => ({ ...before, ...change })), []);
  const theme = useTheme(choice);
  const views = { selection, select, comparison };
  const hasTokens = traces.every((trace) => trace.numTokens > 0);
  const hasSize = traces.some(({ facts }) => facts.size || facts.speed);
  const hasExperts = traces.some(({ arrays }) => arrays.top_tokens || arrays.partners || arrays.load_bins);
  const each = (view: (trace: Trace, side: number) => ComponentChildren) => <Sides traces={traces} view={view} />;
  return (
    <ThemeContext.Provider value={theme}>
      <div class="page" data-theme={choice}>
        <Header
          title={payload.title}
          traces={traces}
          theme={choice}
          setTheme={setChoice}
          has={{ text: hasTokens, walk: hasTokens, experts: hasExperts, size: hasSize }}
        />
        <main>
          <Section id="verdict" title="Verdict">
            {each((trace) => (
              <VerdictView trace={trace} />
            ))}
            {comparison && <ComparisonView traces={traces} {...views} comparison={comparison} />}
          </Section>
          <Section id="map" title="The whole: every layer, every expert" lead={MAP_LEAD}>
            {each((trace) => (
              <>
                <LoadMap trace={trace} {...views} />
                <PassDistribution trace={trace} traces={traces} layer={selection.layer} />
              </>
            ))}
          </Section>
          {hasTokens && (
            <>
              <Section id="text" title="The text, token by token" lead={TEXT_LEAD}>
                <TextControls traces={traces} {...views} />
                {each((trace, side) => (
                  <TextView trace={trace} side={side} {...views} />
                ))}
              </Section>
              <Walk traces={traces} {...views} />
            </>
          )}
          {hasExperts && (
            <Section id="experts" title="The experts of a layer" lead={EXPERTS_LEAD}>
              <div class="controls">
                <LayerSelect trace={traces[0] as Trace} {...views} />
              </div>
              {each((trace) => (
                <Experts trace={trace} {...views} />
              ))}
            </Section>
          )}
          {hasSize && (
            <Section id="size" title="Size: what is there, and what runs">
              {each(({ facts }) => (
                <>
                  {facts.size && <SizeView size={facts.size} />}
                  {facts.speed && <SpeedView speed={facts.speed} />}
                </>
              ))}
            </Section>
          )}
          <Section id="limits" title="What this does not show">
            <Limits traces={traces} />
          </Section>
        </main>
        <footer>
          {each((trace) => (
            <Provenance trace={trace} />
          ))}
        </footer>
      </div>
    </ThemeContext.Provider>
  );
}

const MAP_LEAD =
  "Each cell is one expert of one layer, coloured by how much work it got. A balanced layer is one pale band.";
const TEXT_LEAD =
  "Choose a token here, by pointer or arrow keys, and the walk below follows it through a layer. Enter leads there.";
const EXPERTS_LEAD =
  "An expert is named by nothing but its number. What it takes most says more about it than any label would.";

function firstSelection(traces: readonly Trace[], comparison: Comparison | null): Selection {
  const changed = comparison?.mostChanged[0];
  const token = changed === undefined ? startToken(traces[0] as Trace) : (comparison?.tokenOf(changed, 0) ?? 0);
  const layer = Math.floor((traces[0]?.layers.length ?? 1) / 2);
  return {
    layer,
    tokens: comparison?.tokens(0, token) ?? [token],
    expert: Math.max(0, traces[0]?.expertAt(layer, token, 0) ?? 0),
    step: 0,
    quantity: comparison ? "overlap" : "first",
  };
}

interface SectionProps {
  readonly id: string;
  readonly title: string;
  readonly lead?: string;
  readonly children: ComponentChildren;
}

function Section({ id, title, lead, children }: SectionProps) {
  return (
    <section id={id} aria-labelledby={`${id}-title`}>
      <h2 id={`${id}-title`}>{title}</h2>
      {lead && <p class="lead">{lead}</p>}
      {children}
    </section>
  );
}
