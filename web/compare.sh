#!/usr/bin/env bash
# Builds the page again and requires the same bytes as those that ship. Says so where there is no npm.
set -euo pipefail
cd "$(dirname "$0")"
if ! command -v npm >/dev/null; then
  echo "npm is not installed: the page is not built again"
  exit 0
fi
shipped=../src/headgate/observe/page
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
npm ci --silent
npm run --silent check
npm test --silent
PAGE_OUT=$built npm run --silent build >/dev/null
for file in "$built"/*; do
  cmp "$file" "$shipped/$(basename "$file")" || { echo "run make web, and commit what it wrote"; exit 1; }
done
echo "the page in the package is what web/ builds"
