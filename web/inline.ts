/** Makes one HTML file of a build: script and styles inside, and a content security policy that allows just these. */

import { createHash } from "node:crypto";
import type { Plugin } from "vite";

/**
 * @param file name of the page to write.
 * @param allowed directives of the policy beyond script and style, for a page that is served and not opened from disk.
 */
export function inlinePage(file: string, allowed: readonly string[] = []): Plugin {
  return {
    name: "inline-page",
    enforce: "post",
    generateBundle(_options, bundle) {
      let html = "";
      let script = "";
      let style = "";
      for (const [name, item] of Object.entries(bundle)) {
        delete bundle[name];
        if (item.type === "chunk") script += item.code;
        else if (name.endsWith(".css")) style += item.source;
        else if (name.endsWith(".html")) html += item.source;
        else throw new Error(`${name} is neither script, style nor page; a page in one file has no place for it`);
      }
      this.emitFile({ type: "asset", fileName: file, source: inline(html, script.trim(), style.trim(), allowed) });
    },
  };
}

/** Put script and style in place of the tags that would load them. */
export function inline(html: string, script: string, style: string, allowed: readonly string[] = []): string {
  if (/<\/script|<!--/i.test(script) || /<\/style/i.test(style)) {
    throw new Error("the script or style holds its own end tag, which would end it early; write it in two parts");
  }
  const policy = [
    "default-src 'none'",
    `script-src '${hashOf(script)}'`,
    `style-src '${hashOf(style)}'`,
    "base-uri 'none'",
    "form-action 'none'",
    ...allowed,
  ].join("; ");
  const stripped = html
    .replace(/\s*<script type="module"[^>]*><\/script>/, "")
    .replace(/\s*<link rel="stylesheet"[^>]*>/, "");
  // Functions as replacements: text with $ in it must stay as it is.
  return stripped
    .replace(
      /(<meta charset="utf-8" ?\/?>)/i,
      (tag) => `${tag}\n<meta http-equiv="Content-Security-Policy" content="${policy}">`,
    )
    .replace("</head>", () => `<style>${style}</style>\n</head>`)
    .replace("</body>", () => `<script type="module">${script}</script>\n</body>`);
}

function hashOf(text: string): string {
  return `sha256-${createHash("sha256").update(text).digest("base64")}`;
}
