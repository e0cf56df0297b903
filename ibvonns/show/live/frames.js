// A slider over finished pictures, which also plays. `content`: sources, labels, description, width (pixels).

const PAUSE = 700; // milliseconds a picture

function render({ model, el }) {
  const { sources, labels, description, width } = model.get("content"), last = sources.length - 1;
  const picture = element("img", { width }), shown = element("output");
  const slider = element("input", { type: "range", min: 0, max: last, step: 1, value: 0, "aria-label": description });
  let timer = null;

  const show = () => {
    const frame = Number(slider.value);
    picture.src = sources[frame];
    picture.alt = `${description} ${labels[frame]}`;
    shown.textContent = labels[frame];
    slider.setAttribute("aria-valuetext", labels[frame]);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };
  const to = (frame) => { slider.value = frame; show(); };
  const play = element("button", { type: "button", onclick: () => {
    if (timer) return stop();
    if (Number(slider.value) === last) to(0);
    play.textContent = "Pause";
    timer = setInterval(() => {
      to(Number(slider.value) + 1);
      if (Number(slider.value) === last) stop();
    }, PAUSE);
  } }, "Play");
  slider.addEventListener("input", () => { stop(); show(); });
  el.replaceChildren(element("div", { class: "ibv-frames" }, element("div", { class: "ibv-row" }, play, slider, shown), picture));
  show();
  return stop;
}

export default { render };
