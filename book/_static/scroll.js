// A formula that is wider than the page scrolls in its own place. Only then it is a stop of the
// Tab key, so that the arrow keys can move it. (The theme does the same with code and tables.)
addEventListener("load", async () => {
  const look = () => {
    for (const box of document.querySelectorAll("article div.math mjx-container, article span.math")) {
      const drawn = box.querySelector("mjx-math");
      // one of a line hangs over by some pixels without being cut; one on display scrolls at the first
      const wide = drawn && drawn.scrollWidth > box.clientWidth + (box.matches("mjx-container") ? 0 : 4);
      if (Boolean(wide) === box.classList.contains("wide")) continue;
      box.classList.toggle("wide");
      if (wide) {
        box.tabIndex = 0;
        box.setAttribute("role", "group");
        box.setAttribute("aria-label", "Wide formula");
      } else {
        for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
      }
    }
  };
  // The theme measures code when the window changes, but not when a fold that holds it is opened.
  document.addEventListener("toggle", () => dispatchEvent(new Event("resize")), true);
  await window.MathJax?.startup?.promise; // drawn
  const article = document.querySelector("article");
  if (article) new ResizeObserver(look).observe(article);
});
