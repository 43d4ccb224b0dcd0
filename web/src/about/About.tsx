import type { Trace } from "../data/trace";

/** Each limit once, though both traces have it. */
export function Limits({ traces }: { traces: readonly Trace[] }) {
  const sentences = new Set(traces.flatMap((trace) => trace.facts.not_shown));
  return (
    <ul class="limits">
      {[...sentences].map((sentence) => (
        <li key={sentence}>{sentence}</li>
      ))}
    </ul>
  );
}

export function Provenance({ trace }: { trace: Trace }) {
  return (
    <dl class="provenance">
      {trace.facts.provenance.map(([label, value]) => (
        <div key={label}>
          <dt>{label}</dt>
          <dd>{String(value)}</dd>
        </div>
      ))}
    </dl>
  );
}
