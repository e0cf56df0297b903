// Sphinx's search asks for each page that it found, to show the words around the match. A page from
// a disk may not ask: answer with its name, and take the words from SEARCH_TEXTS (search_text.py).
window.fetch = async (url) => new Response(url);
Search.makeSearchSummary = (url, stems, anchor) => {
  const sections = SEARCH_TEXTS[url.replace(/^(\.\/)*/, "").replace(/\.html$/, "")] ?? [];
  const from = Math.max(sections.findIndex(([id]) => id === anchor), 0);
  const text = sections.slice(from).map(([, words]) => words).join(" ");
  // What the reader typed, not its stems: "entropy", not "entropi".
  const typed = new URLSearchParams(location.search).get("q").toLowerCase().match(/[\p{L}\d]+/gu);
  const places = (typed ?? []).map((word) => text.toLowerCase().indexOf(word)).filter((i) => i >= 0);
  const middle = places.length ? Math.min(...places) : 0;
  const start = middle > 120 ? text.indexOf(" ", middle - 120) + 1 : 0;
  const end = text.length > start + 240 ? text.lastIndexOf(" ", start + 240) : text.length;
  const summary = document.createElement("p");
  summary.className = "context";
  summary.textContent =
    (start ? "… " : "") + text.slice(start, end) + (end < text.length ? " …" : "");
  return summary;
};
