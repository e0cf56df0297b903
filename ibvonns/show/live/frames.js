// A slider over finished pictures. `content`: sources, labels, description, width (pixels).

function render({ model, el }) {
  const { sources, labels, description, width } = model.get("content");
  const figure = document.createElement("div");
  const picture = document.createElement("img");
  const row = document.createElement("label");
  const slider = document.createElement("input");
  const shown = document.createElement("output");
  figure.className = "ibv-frames";
  picture.width = width;
  Object.assign(slider, { type: "range", min: 0, max: sources.length - 1, step: 1, value: 0 });
  slider.setAttribute("aria-label", description);

  const show = () => {
    const frame = Number(slider.value);
    picture.src = sources[frame];
    picture.alt = `${description} ${labels[frame]}`;
    shown.textContent = labels[frame];
    slider.setAttribute("aria-valuetext", labels[frame]);
  };
  slider.addEventListener("input", show);
  row.append(slider, shown);
  figure.append(row, picture);
  el.replaceChildren(figure);
  show();
}

export default { render };
