import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { inline } from "../inline.ts";

const PAGE = `<html><head><meta charset="utf-8" />
<script type="module" crossorigin src="/a.js"></script>
<link rel="stylesheet" crossorigin href="/a.css">
</head><body></body></html>`;
const sha256 = (text: string) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

test("script and style are inside, loaded from nowhere, and the policy allows them alone", () => {
  const [script, style] = ["const a = `$&$1`;", "a{color:red}"];
  const html = inline(PAGE, script, style);
  expect(html).toContain(`<script type="module">${script}</script>`);
  expect(html).toContain(`<style>${style}</style>`);
  expect(html).not.toMatch(/src=|href=/);
  expect(html).toContain(`default-src 'none'; script-src ${sha256(script)}; style-src ${sha256(style)};`);
  expect(html).not.toContain("connect-src");
});

test("a served page may be allowed more", () => {
  expect(inline(PAGE, "", "", ["connect-src 'self'"])).toContain("form-action 'none'; connect-src 'self'");
});

test("a script that would end early is refused", () => {
  expect(() => inline(PAGE, "'</script>'", "")).toThrow(/its own end tag/);
});
