import { fileURLToPath } from "node:url";
import { defineConfig, type UserConfig } from "vite";
import { inlinePage } from "./inline.ts";

const OUT = fileURLToPath(new URL("../src/headgate/observe/page", import.meta.url));

/** Pages by `--mode`: the folder with their index.html, and the file that they become. */
const PAGES: Readonly<Record<string, { folder: string; file: string }>> = {
  page: { folder: "page", file: "template.html" },
};

const TARGET = "es2023";

function buildPage({ folder, file }: { folder: string; file: string }): UserConfig {
  return {
    root: fileURLToPath(new URL(folder, import.meta.url)),
    plugins: [inlinePage(file)],
    build: {
      target: TARGET,
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
