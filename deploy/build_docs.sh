#!/bin/sh
# Build the docs site in site/ and check its links. Nothing in it is fetched from another host.
#
# Diagrams are drawn by mermaid.js, which comes from npm. Without npm their source is shown as text.
set -eu
cd "$(dirname "$0")/.."
NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
if command -v npm >/dev/null 2>&1; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  npm pack --silent --pack-destination "$folder" mermaid@11.16.0 >/dev/null
  tar -xzf "$folder"/mermaid-*.tgz -C "$folder" package/dist/mermaid.min.js
  cp "$folder/package/dist/mermaid.min.js" site/javascripts/
else
  echo "npm is not installed, so the site shows diagrams as text" >&2
fi
echo "site/index.html"
