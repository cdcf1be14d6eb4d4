// Draw the diagrams of a page. Without mermaid.min.js (see `make docs`) their source is shown as text.
if (window.mermaid) {
  const dark = document.body.dataset.mdColorScheme === "slate";
  mermaid.initialize({ startOnLoad: false, theme: dark ? "dark" : "default" });
  document.querySelectorAll("pre.diagram > code").forEach((code) => {
    const box = document.createElement("div");
    box.textContent = code.textContent;
    code.parentElement.replaceWith(box);
    mermaid.run({ nodes: [box] });
  });
}
