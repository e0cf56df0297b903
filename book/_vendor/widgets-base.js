// Tell require.js where the widgets' code and icon fonts lie: beside this file, on no other host.
require.config({ baseUrl: new URL(".", document.currentScript.src).href });

// The widgets set the formulas in their labels by a call that MathJax 2 had: pass it on to MathJax 3.
// They draw on the load event as well, later than this, because their script comes after this one.
window.addEventListener("load", () => {
  if (window.MathJax?.startup) {
    const set = (element) => MathJax.startup.promise.then(() => MathJax.typesetPromise([element]));
    MathJax.Hub = { Queue: ([, , element]) => set(element) };
  }
});
