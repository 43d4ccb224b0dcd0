import { render } from "preact";
import { App } from "./app";
import { readPayload, unpackText } from "./data/payload";
import "./styles/page.css";

async function start(root: HTMLElement, text: string): Promise<void> {
  if (!text.trim()) {
    throw new Error("this is the empty template; `headgate report TRACE -o page.html` writes a page with data");
  }
  const payload = readPayload(await unpackText(text));
  document.title = payload.title;
  root.replaceChildren();
  render(<App payload={payload} />, root);
}

const root = document.getElementById("page") as HTMLElement;
start(root, document.getElementById("headgate-data")?.textContent ?? "").catch((error: unknown) => {
  const message = document.createElement("p");
  message.className = "reading";
  message.role = "alert";
  message.textContent = `The page cannot be shown: ${error instanceof Error ? error.message : error}`;
  root.replaceChildren(message);
  throw error;
});
