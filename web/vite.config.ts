import { fileURLToPath } from "node:url";
import { defineConfig, type UserConfig } from "vite";
import { inlinePage } from "./inline.ts";

/** The package, unless web/compare.sh wants it elsewhere. */
const OUT = process.env.PAGE_OUT ?? fileURLToPath(new URL("../src/headgate/observe/page", import.meta.url));

interface Page {
  readonly folder: string;
  readonly file: string;
  /** Directives of its content security policy beyond script and style. */
  readonly allowed?: readonly string[];
}

/** Pages by `--mode`: the folder with their index.html, and the file that they become. */
const PAGES: Readonly<Record<string, Page>> = {
  page: { folder: "page", file: "template.html" },
  // Served on loopback by headgate report --watch, and asks there how the run stands.
  watch: { folder: "watch", file: "watch.html", allowed: ["connect-src 'self'"] },
};

const TARGET = "es2023";

/** The first that know light-dark(): what older ones would need, in its place, does not follow a chosen theme. */
const CSS_TARGET = ["chrome123", "firefox120", "safari17.5"];

function buildPage({ folder, file, allowed }: Page): UserConfig {
  return {
    root: fileURLToPath(new URL(folder, import.meta.url)),
    plugins: [inlinePage(file, allowed)],
    build: {
      target: TARGET,
      cssTarget: CSS_TARGET,
      outDir: OUT,
      emptyOutDir: false,
      modulePreload: false,
      cssCodeSplit: false,
      assetsInlineLimit: Number.POSITIVE_INFINITY,
    },
  };
}

const widget: UserConfig = {
  build: {
    target: TARGET,
    cssTarget: CSS_TARGET,
    outDir: OUT,
    emptyOutDir: false,
    minify: true,
    // What the page and the widget hold of others; both are made of the same modules.
    license: { fileName: "licenses.md" },
    lib: {
      entry: fileURLToPath(new URL("src/widget.tsx", import.meta.url)),
      formats: ["es"],
      fileName: () => "widget.js",
    },
  },
};

export default defineConfig(({ mode }) => {
  const page = PAGES[mode];
  return page ? buildPage(page) : mode === "widget" ? widget : {};
});
