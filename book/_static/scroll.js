// A formula that is wider than the page scrolls in its own place. Only then it is a stop of the
// Tab key, so that the arrow keys can move it. (The theme does the same with code and tables.)
addEventListener("load", async () => {
  const look = () => {
    for (const box of document.querySelectorAll("article div.math mjx-container, article span.math")) {
      const wide = box.scrollWidth > box.clientWidth + 4;
      if (wide === box.hasAttribute("tabindex")) continue;
      if (wide) {
        box.tabIndex = 0;
        box.setAttribute("role", "group");
        box.setAttribute("aria-label", "Wide formula");
      } else {
        for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
      }
    }
  };
  await window.MathJax?.startup?.promise; // drawn
  new ResizeObserver(look).observe(document.querySelector("article"));
});
