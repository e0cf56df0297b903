// Lattice gases that hop beside the equation of their density, in the reader's browser.
//
// `content` comes from `gas_content` of ibvonns/show/panels.py. The first part is arithmetic: the jumps of
// systems/lattice.py, each realisation by itself, and its closed form Phi (`nearest`) in finite volumes.
// The second part draws, in the manner of panel.js. Nothing is loaded.

const PACES = [1, 4, 16, 64]; // of the gas's time, a second
const ROWS = 6; // realisations that are drawn
const FLAT = 0.04; // the run ends where the equation spans this share of what it spanned at first

// --- random numbers ------------------------------------------------------------------------

// sfc32: a long run asks for more numbers than the 32 bits of mulberry32 can keep apart
function uniforms(seed) {
  let a = seed | 0, b = 0x9e3779b9 | 0, c = 0x243f6a88 | 0, counter = 1;
  const next = () => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + sum) | 0;
    return (sum >>> 0) / 4294967296;
  };
  for (let i = 0; i < 20; i++) next(); // until the seed is in every bit
  return next;
}

// --- particles -----------------------------------------------------------------------------

// Places of the realisations, one after another, from words of 64 of them for each site.
function unpacked(words, sites) {
  const bytes = atob(words), states = new Uint8Array(8 * bytes.length);
  for (let i = 0; i < bytes.length; i++) {
    const place = Math.floor(i / 8), x = place % sites, run = 64 * Math.floor(place / sites) + 8 * (i % 8);
    for (let bit = 0; bit < 8; bit++) states[(run + bit) * sites + x] = (bytes.charCodeAt(i) >> bit) & 1;
  }
  return states;
}

// Every bond of every realisation is tried at the largest rate that a jump can have. A particle with no
// other before it then jumps with the chance that makes its rate `frequency`, times `slowed` where one
// is behind it. The moments of the tries are drawn, too: so a run is the same at any frame rate.
function hopping(states, sites, { slowed, frequency }, seed) {
  const random = uniforms(seed), largest = Math.max(1, slowed), rate = states.length * frequency * largest;
  const chances = [1 / largest, slowed / largest];
  const wait = () => -Math.log(1 - random()) / rate;
  let next = wait();
  return {
    states,
    until(time) {
      for (; next <= time; next += wait()) {
        const here = Math.floor(random() * states.length), x = here % sites, ring = here - x;
        const ahead = ring + (x + 1) % sites;
        if (states[here] === states[ahead]) continue;
        const behind = ring + (states[here] ? x + sites - 1 : x + 2) % sites;
        if (random() < chances[states[behind]]) {
          states[here] ^= 1;
          states[ahead] ^= 1;
        }
      }
    },
    mean() {
      const sum = new Float64Array(sites);
      for (let i = 0, x = 0; i < states.length; i++, x = x + 1 === sites ? 0 : x + 1) sum[x] += states[i];
      return sum.map((n) => (n * sites) / states.length);
    },
  };
}

// --- the equation --------------------------------------------------------------------------

// Phi of nearest neighbours (lattice.nearest), with w / density, which is finite where the ring is empty
function phi(density, slowed) {
  const share = (2 * (1 - density)) / (1 + Math.sqrt(1 + 4 * (1 / slowed - 1) * density * (1 - density)));
  return density * (slowed + (1 - slowed) * share * share);
}

// d density/dt = d^2 Phi/dx^2: what leaves a site enters the next. All steps are alike, a tenth of the
// largest stable one, so that Euler's error is far below what can be seen.
function equation(first, { slowed, frequency }) {
  const density = Float64Array.from(first), potential = new Float64Array(first.length), last = first.length - 1;
  let steepest = 0, done = 0;
  for (let i = 0; i < 200; i++) steepest = Math.max(steepest, 200 * (phi((i + 1) / 200, slowed) - phi(i / 200, slowed)));
  const step = 0.05 / (frequency * steepest);
  return {
    density, step,
    until(time) {
      for (; (done + 1) * step <= time; done++) {
        for (let x = 0; x <= last; x++) potential[x] = phi(density[x], slowed);
        for (let x = 0; x <= last; x++) {
          const next = x === last ? 0 : x + 1, flux = frequency * step * (potential[x] - potential[next]);
          density[x] -= flux;
          density[next] += flux;
        }
      }
    },
  };
}

// Root mean squares over the sites: how far the mean lies from the equation, and how far independent
// realisations of it would. A site is full or empty, so its variance is density (1 - density).
function distance(mean, density, runs) {
  const sum = (f) => density.reduce((all, value, x) => all + f(value, x), 0) / density.length;
  return { found: Math.sqrt(sum((v, x) => (mean[x] - v) ** 2)), noise: Math.sqrt(sum((v) => v * (1 - v)) / runs) };
}

// --- drawing -------------------------------------------------------------------------------

const short = (x) => String(Number(x.toPrecision(3)));

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

// a canvas over the sites; what rarely changes is drawn once (`base`), the rest on top of it
function plotOf(root, host, { title, height, x, y, margin }) {
  const canvas = element("canvas", { role: "img", "aria-label": title });
  const area = element("div", { class: "ibv-area", style: `height: ${height}px` }, canvas);
  host.append(element("figure", { class: "ibv-plot", style: "grid-column: 1 / -1" }, element("p", {}, title), area));
  const under = document.createElement("canvas"), plot = { colours: {} };
  let ctx = canvas.getContext("2d"), w = 0, h = 0, ratio = 1;

  plot.X = (v) => margin.left + ((v - x[0]) / (x[1] - x[0])) * (w - margin.left - margin.right);
  plot.Y = (v) => h - margin.bottom - ((v - y[0]) / (y[1] - y[0])) * (h - margin.top - margin.bottom);
  const stroke = (colour, width, dash = []) => {
    ctx.strokeStyle = plot.colours[colour];
    ctx.lineWidth = width;
    ctx.setLineDash(dash);
    ctx.stroke();
    ctx.setLineDash([]);
  };
  const segment = (a, b, c, d) => {
    ctx.beginPath();
    ctx.moveTo(a, b);
    ctx.lineTo(c, d);
    stroke("grid", 1);
  };
  const along = (values) => values.forEach((v, i) => ctx.lineTo(plot.X(i + 0.5), plot.Y(v)));

  plot.line = (values, colour, width, dash) => {
    ctx.beginPath();
    along(values);
    stroke(colour, width, dash);
  };
  plot.band = (low, high) => {
    ctx.fillStyle = plot.colours.grid;
    ctx.beginPath();
    along(low);
    for (let i = high.length - 1; i >= 0; i--) ctx.lineTo(plot.X(i + 0.5), plot.Y(high[i]));
    ctx.fill();
  };
  plot.dots = (points, wide, high) => {
    ctx.fillStyle = plot.colours.cloud;
    ctx.beginPath();
    for (const [i, v] of points) {
      ctx.moveTo(plot.X(i + 0.5) + wide, plot.Y(v));
      ctx.ellipse(plot.X(i + 0.5), plot.Y(v), wide, high, 0, 0, 2 * Math.PI);
    }
    ctx.fill();
  };
  plot.rows = (count) => {
    for (let row = 0; row < count; row++) segment(plot.X(x[0]), plot.Y(row + 0.5), plot.X(x[1]), plot.Y(row + 0.5));
  };
  plot.axes = (name) => {
    ctx.font = "11px system-ui, sans-serif";
    ctx.fillStyle = plot.colours.ink;
    ctx.textAlign = "center";
    ctx.textBaseline = "top";
    for (let i = 0; i <= 5; i++) {
      const value = x[0] + (i * (x[1] - x[0])) / 5;
      segment(plot.X(value), margin.top, plot.X(value), h - margin.bottom);
      ctx.fillText(short(value), Math.min(plot.X(value), w - 10), h - margin.bottom + 4);
    }
    ctx.textAlign = "right";
    ctx.fillText(name, w - margin.right, h - 13);
    ctx.textBaseline = "middle";
    for (let i = 0; i <= 4; i++) {
      const value = y[0] + (i * (y[1] - y[0])) / 4;
      segment(margin.left, plot.Y(value), w - margin.right, plot.Y(value));
      ctx.fillText(short(value), margin.left - 4, plot.Y(value));
    }
  };

  plot.base = (draw) => {
    [w, h] = [area.clientWidth, area.clientHeight];
    if (!w || !h) return;
    ratio = Math.min(window.devicePixelRatio || 1, 2);
    for (const each of [canvas, under]) [each.width, each.height] = [Math.round(w * ratio), Math.round(h * ratio)];
    const style = getComputedStyle(root);
    for (const key of ["ink", "faint", "grid", "law", "cloud"]) {
      plot.colours[key] = style.getPropertyValue(`--ibv-${key}`).trim();
    }
    ctx = under.getContext("2d");
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, w, h);
    draw();
    ctx = canvas.getContext("2d");
  };
  plot.frame = (draw) => {
    if (!w) return;
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.clearRect(0, 0, canvas.width, canvas.height);
    ctx.drawImage(under, 0, 0);
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw();
  };
  return plot;
}

// --- the panel -----------------------------------------------------------------------------

const HELP = "Above: particles of a few runs, one run in each row. The right end of a row meets its left end. Below, " +
  "dots: share of all runs with a particle at the site. Line: the equation, from the same first profile (dashed). " +
  "Grey: two standard errors of the noise on either side of the line, where about 95 % of the dots belong.";
const KEYS = "Step goes on by as much as a second of playing. Reset begins with the same particles, which then hop otherwise. " +
  "Every button can be reached by the tab key, the pace changed by the arrow keys. Everything runs in this page.";

function render({ model, el }) {
  const content = model.get("content"), { sites, runs, gases, profiles, starts } = content;
  let gas = 0, profile = 0, seed = 1, time = 0, playing = false, before = null, told = 0, frames = [];
  let particles, law, first, span;

  // --- what stands on the page
  const root = element("section", { class: "ibv-panel", "aria-label": content.description });
  const button = (label, press, attributes = {}) => element("button", { type: "button", onclick: press, ...attributes }, label);
  const choices = (options, choose) => options.map(({ label }, i) => button(label, () => choose(i), { "aria-pressed": "false" }));
  const ofGas = choices(gases, (i) => { gas = i; restart(); });
  const ofProfile = choices(profiles, (i) => { profile = i; restart(); });
  const play = button("Play", () => (playing ? pause() : start()));
  const step = button("Step", () => { pause(); forward(time + pace()); tell(); });
  const reset = button("Reset", () => { seed += 1; restart(); });
  const dial = element("input", { type: "range", min: 0, max: PACES.length - 1, step: 1, value: 2, oninput: () => dialled() });
  const shown = element("output"), pace = () => PACES[Number(dial.value)];
  const said = element("p", { style: "margin: 0.5rem 0 0; font-variant-numeric: tabular-nums" });
  const spoken = element("p", { class: "ibv-spoken", "aria-live": "polite" });
  const host = element("div", { class: "ibv-plots" }), readout = element("dl"), reading = {};
  for (const name of ["time", "particles of a run", "of the equation", "frames a second"]) {
    reading[name] = element("dd", {}, "\u2013");
    readout.append(element("div", {}, element("dt", {}, name), reading[name]));
  }
  const key = element("p", { class: "ibv-key" });
  key.innerHTML = `<i>\u2014 equation</i> &nbsp; <b>\u25cf particles</b>`;
  root.append(
    element("div", { class: "ibv-row", role: "group", "aria-label": "Particles" }, "Particles:", ...ofGas),
    element("div", { class: "ibv-row", role: "group", "aria-label": "First profile" }, "First profile:", ...ofProfile),
    element("div", { class: "ibv-row" }, play, step, reset, element("label", {}, "pace", dial, shown), key),
    host, said, readout, spoken,
    element("details", {}, element("summary", {}, "How to read and steer it"), element("p", {}, HELP), element("p", {}, KEYS)),
  );
  el.replaceChildren(root);
  const rows = Math.min(ROWS, runs), margin = { left: 36, right: 8, top: 6, bottom: 32 };
  const strip = plotOf(root, host, {
    title: `${rows} of ${runs} runs: particles on the ring`, height: 14 * rows + 4, x: [0, sites], y: [rows, 0], margin: { ...margin, top: 2, bottom: 2 },
  });
  const plot = plotOf(root, host, { title: `density: mean of ${runs} runs, and the equation`, height: 240, x: [0, sites], y: [0, 1], margin });

  // --- what happens
  function restart() {
    pause();
    [ofGas, ofProfile].forEach((group, n) => group.forEach((each, i) => each.setAttribute("aria-pressed", String(i === [gas, profile][n]))));
    first = profiles[profile].density;
    particles = hopping(unpacked(starts[gas][profile], sites), sites, gases[gas], seed);
    law = equation(first, gases[gas]);
    span = spanned(first);
    time = 0;
    layout();
  }

  const held = (values) => values.reduce((a, b) => a + b, 0).toFixed(2);
  const spanned = (density) => Math.max(...density) - Math.min(...density);
  const over = () => spanned(law.density) < FLAT * span;

  function forward(to) {
    particles.until(to);
    law.until(to);
    time = to;
    paint();
  }

  function start() {
    if (over()) restart();
    playing = true;
    play.textContent = "Pause";
    before = null;
    frames = [];
    requestAnimationFrame(tick);
  }

  function pause() {
    if (!playing) return;
    playing = false;
    play.textContent = "Play";
    tell();
  }

  function tick(at) {
    if (!playing || !root.isConnected) return;
    const lapse = Math.min(at - (before ?? at), 100) / 1000; // a busy machine is slow, and not late
    before = at;
    frames.push(at);
    while (frames[0] < at - 1000) frames.shift();
    forward(time + pace() * lapse);
    if (over()) pause();
    else requestAnimationFrame(tick);
  }

  function dialled() {
    shown.textContent = `${pace()} a second`;
    dial.setAttribute("aria-valuetext", `time ${shown.textContent}`);
  }

  function tell() {
    paint(true);
    spoken.textContent = `${over() ? "The profile is flat." : ""} ${said.textContent}`;
  }

  // --- drawing
  function layout() {
    strip.base(() => strip.rows(rows));
    plot.base(() => plot.axes("site"));
    paint(true);
  }

  function paint(full = false) {
    const { states } = particles, mean = particles.mean(), { density } = law;
    const seen = [];
    for (let i = 0; i < rows * sites; i++) if (states[i]) seen.push([i % sites, Math.floor(i / sites) + 0.5]);
    const wide = Math.min(4, Math.max(1, 0.42 * (strip.X(1) - strip.X(0)))); // as their sites allow
    strip.frame(() => strip.dots(seen, wide, 4));
    plot.frame(() => {
      const noise = density.map((v) => 2 * Math.sqrt((v * (1 - v)) / runs));
      plot.band(density.map((v, i) => v - noise[i]), density.map((v, i) => v + noise[i]));
      plot.line(first, "faint", 1.2, [4, 3]);
      plot.line(density, "law", 1.8);
      plot.dots(Array.from(mean, (v, i) => [i, v]), 2, 2);
    });
    const now = performance.now();
    if (!full && now - told < 200) return; // numbers that can be read
    told = now;
    const { found, noise } = distance(mean, density, runs), ends = over() ? ", where all is nearly flat," : "";
    said.textContent = `At time ${time.toFixed(1)}${ends} the mean of ${runs} runs lies ${found.toFixed(3)} from the ` +
      `equation (root mean square over the sites). By chance alone ${noise.toFixed(3)} is expected.`;
    const rate = frames.length > 10 ? ((frames.length - 1) * 1000) / (frames[frames.length - 1] - frames[0]) : null;
    reading.time.textContent = time.toFixed(1);
    reading["particles of a run"].textContent = held(mean);
    reading["of the equation"].textContent = held(density);
    if (rate !== null) reading["frames a second"].textContent = rate.toFixed(0);
  }

  // what a test, or a curious reader at the console, may ask
  root.ibvonns = {
    get time() { return time; },
    get states() { return Array.from(particles.states); },
    get mean() { return Array.from(particles.mean()); },
    get density() { return Array.from(law.density); },
    get distance() { return distance(particles.mean(), law.density, runs); },
    get over() { return over(); },
    forward,
    content,
    arithmetic: { distance, equation, hopping, phi, unpacked },
  };

  const sized = new ResizeObserver(() => layout());
  const themed = new MutationObserver(() => layout());
  dialled();
  restart();
  sized.observe(host);
  themed.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  return () => { playing = false; sized.disconnect(); themed.disconnect(); };
}

export default { render, distance, equation, hopping, phi, unpacked };
