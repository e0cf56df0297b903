// What the panels share: this text stands before that of each of them (ibvonns/show/widgets.py).
//
// No library draws here. uPlot (1.6.32) has 51 kB, three quarters of all scripts together, and would replace axes
// and lines alone, a tenth of them: outlines, specks, bars, fading bands, handles and the moving things stay.

const MARGIN = { left: 40, right: 8, top: 6, bottom: 19 };

const short = (x) => String(Number(x.toPrecision(3))).replace("-", "\u2212");

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

// frames of the last second
function counter() {
  let at = [];
  return {
    clear() { at = []; },
    count(now) {
      at.push(now);
      while (at[0] < now - 1000) at.shift();
    },
    show(node) {
      if (at.length > 10) node.textContent = (((at.length - 1) * 1000) / (at[at.length - 1] - at[0])).toFixed(0);
    },
  };
}

// lay out again where the room or the colours change; gives what ends it
function watch(host, layout) {
  const sized = new ResizeObserver(() => layout()), themed = new MutationObserver(() => layout());
  const device = matchMedia("(prefers-color-scheme: dark)"), changed = () => layout();
  sized.observe(host);
  themed.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  device.addEventListener("change", changed);
  return () => {
    sized.disconnect();
    themed.disconnect();
    device.removeEventListener("change", changed);
  };
}

function ticks(low, high, most) {
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found;
}

// one canvas; what rarely changes is drawn once (`base`), the rest on top of it (`frame`)
function plotOf(root, host, { title, label = title, x = [0, 3], y = [0, 1], wide = "", height, margin = MARGIN }) {
  const canvas = element("canvas", { role: "img", "aria-label": label });
  const area = element("div", { class: "ibv-area" }, canvas), under = document.createElement("canvas");
  if (height) area.style.height = `${height}px`;
  host.append(element("figure", { class: `ibv-plot ${wide}` }, element("p", {}, title), area));
  const plot = { area, canvas, x, y, colours: {}, ctx: canvas.getContext("2d"), w: 0, h: 0 };
  let ratio = 1;

  const across = () => plot.w - margin.left - margin.right, down = () => plot.h - margin.top - margin.bottom;
  plot.X = (v) => margin.left + ((v - plot.x[0]) / (plot.x[1] - plot.x[0])) * across();
  plot.Y = (v) => plot.h - margin.bottom - ((v - plot.y[0]) / (plot.y[1] - plot.y[0])) * down();
  plot.unX = (p) => plot.x[0] + ((p - margin.left) / across()) * (plot.x[1] - plot.x[0]);
  plot.unY = (p) => plot.y[0] + ((plot.h - margin.bottom - p) / down()) * (plot.y[1] - plot.y[0]);
  plot.stroke = (colour, width, dash = []) => {
    const { ctx } = plot;
    ctx.strokeStyle = plot.colours[colour];
    ctx.lineWidth = width;
    ctx.setLineDash(dash);
    ctx.stroke();
    ctx.setLineDash([]);
  };
  plot.segment = (a, b, c, d, colour = "grid", width = 1, dash = []) => {
    plot.ctx.beginPath();
    plot.ctx.moveTo(a, b);
    plot.ctx.lineTo(c, d);
    plot.stroke(colour, width, dash);
  };
  plot.clipped = (draw) => {
    plot.ctx.save();
    plot.ctx.beginPath();
    plot.ctx.rect(margin.left, margin.top - 2, across(), down() + 4);
    plot.ctx.clip();
    draw(plot.ctx);
    plot.ctx.restore();
  };
  // below a plot its last word alone stands, in the row of the numbers: the titles name it in full
  plot.axes = (name, whole = false) => {
    const { ctx } = plot, right = plot.w - margin.right, foot = plot.h - margin.bottom, word = whole ? "" : name.split(" ").pop();
    ctx.font = "11px system-ui, sans-serif";
    ctx.fillStyle = plot.colours.ink;
    ctx.textAlign = "center";
    ctx.textBaseline = "top";
    const end = whole ? plot.w : right - ctx.measureText(word).width - 4; // no number reaches beyond
    for (const v of whole ? Array.from({ length: 10 }, (_, i) => i + 1) : ticks(...plot.x, 5)) {
      if (!whole) plot.segment(plot.X(v), margin.top, plot.X(v), foot);
      if (plot.X(v) + ctx.measureText(short(v)).width / 2 < end) ctx.fillText(short(v), plot.X(v), foot + 4);
    }
    ctx.textAlign = "right";
    ctx.fillText(word, right, foot + 4);
    ctx.textBaseline = "middle";
    for (const v of ticks(...plot.y, 4)) {
      plot.segment(margin.left, plot.Y(v), right, plot.Y(v));
      ctx.fillText(short(v), margin.left - 4, plot.Y(v));
    }
  };
  const cleared = (ctx, to) => {
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.clearRect(0, 0, to.width, to.height);
  };
  plot.base = (draw) => { // false where there is no room
    [plot.w, plot.h] = [area.clientWidth, area.clientHeight];
    if (!plot.w || !plot.h) return false;
    ratio = Math.min(window.devicePixelRatio || 1, 2);
    for (const each of [canvas, under]) [each.width, each.height] = [Math.round(plot.w * ratio), Math.round(plot.h * ratio)];
    const style = getComputedStyle(root);
    for (const key of ["ink", "faint", "grid", "law", "cloud", "fill", "ground"]) {
      plot.colours[key] = style.getPropertyValue(`--ibv-${key}`).trim();
    }
    plot.ctx = under.getContext("2d");
    cleared(plot.ctx, under);
    plot.ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw();
    plot.ctx = canvas.getContext("2d");
    return true;
  };
  plot.frame = (draw) => {
    if (!plot.w) return;
    cleared(plot.ctx, canvas);
    plot.ctx.drawImage(under, 0, 0);
    plot.ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw(plot.ctx);
  };
  return plot;
}

