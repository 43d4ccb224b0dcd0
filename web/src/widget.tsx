/** The page inside a notebook: https://anywidget.dev. The Python side has one trait, `payload`. */

import { render } from "preact";
import { App } from "./app";
import { inflate, readPayload } from "./data/payload";
import styles from "./styles/page.css?inline";

interface Model {
  get(name: "payload"): DataView<ArrayBuffer> | null;
  on(event: "change:payload", callback: () => void): void;
  off(event: "change:payload", callback: () => void): void;
}

/** Draw into a shadow tree, so that the notebook's styles and the page's leave each other alone. */
function renderWidget({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const shadow = el.attachShadow({ mode: "open" });
  const style = document.createElement("style");
  style.textContent = styles;
  const root = document.createElement("div");
  shadow.append(style, root);
  const update = async () => {
    const bytes = model.get("payload");
    if (!bytes?.byteLength) return;
    const compressed = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const payload = readPayload(await inflate(compressed));
    // A key of its own makes a new page of new data, not the old one's choices with new numbers.
    render(<App key={Date.now()} payload={payload} />, root);
  };
  void update();
  model.on("change:payload", update);
  return () => {
    model.off("change:payload", update);
    render(null, root);
  };
}

export default { render: renderWidget };
