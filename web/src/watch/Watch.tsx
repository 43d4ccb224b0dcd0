import { formatCount } from "../format";
import { Curve } from "./Curve";
import { Loads } from "./Loads";
import { describeProgress, type Progress, series } from "./progress";

/** A training run as it stands. */
export function Watch({ progress, isLost }: { progress: Progress; isLost: boolean }) {
  const { step, num_steps, tokens_per_s, layers } = progress;
  return (
    <div class="page">
      <header>
        <h1>{progress.name}</h1>
        <p class="lead">
          Step {formatCount(step)}
          {num_steps !== null && ` of ${formatCount(num_steps)}`}
          {tokens_per_s !== null && `, ${formatCount(Math.round(tokens_per_s))} tokens per second`}
          {isLost && ". The server no longer answers: what is here is the last that was known"}.
        </p>
        {num_steps !== null && <progress value={step} max={num_steps} aria-label="steps done" />}
      </header>
      <main>
        <section aria-label="verdict">
          <p class="verdict-sentence" role="status">
            {describeProgress(progress)}
          </p>
        </section>
        <section aria-label="curves" class="curves">
          <Curve label="loss, nats per token" values={series(progress.points, 1)} last={num_steps} />
          <Curve
            label="busiest expert of the worst layer, in even shares"
            values={series(progress.points, 2)}
            last={num_steps}
            even={1}
          />
        </section>
        {layers.length > 0 && (
          <section aria-label="layers">
            <h2>Who works now</h2>
            <p class="note">
              Rows of the last {progress.recent_steps} steps. Blue is less than an even share, orange is more.
            </p>
            <Loads layers={layers} />
          </section>
        )}
      </main>
      <footer>
        <p class="fine">
          From the run's metrics file, as it grows.
          {progress.num_unreadable > 0 && ` ${formatCount(progress.num_unreadable)} of its lines could not be read.`}
        </p>
      </footer>
    </div>
  );
}
