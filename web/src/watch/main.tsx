import { render } from "preact";
import type { Progress } from "./progress";
import { Watch } from "./Watch";
import "./watch.css";

const INTERVAL_MS = 1000;

const root = document.getElementById("watch") as HTMLElement;
let last: Progress | undefined;

/** Ask for the run again and again, each time after the answer: a slow machine is asked less often. */
async function follow(): Promise<void> {
  let isLost = false;
  try {
    const answer = await fetch("state");
    if (!answer.ok) throw new Error(answer.statusText);
    last = (await answer.json()) as Progress;
  } catch {
    // The server has ended, or the machine sleeps: it may come back.
    isLost = true;
  }
  if (last) {
    document.title = `${last.name}: step ${last.step}`;
    render(<Watch progress={last} isLost={isLost} />, root);
  }
  setTimeout(follow, INTERVAL_MS);
}

root.replaceChildren();
follow();
