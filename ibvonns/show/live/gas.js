// Lattice gases that hop beside the equation of their density, in the reader's browser.
//
// `content` comes from `gas_content` of ibvonns/show/panels.py. The first part is arithmetic: the jumps of
// systems/lattice.py, each realisation by itself, and its closed form Phi (`nearest`) in finite volumes.
// The second part draws, on the plots of shared.js. Nothing is loaded.

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

// what is drawn over the sites, on a plot of shared.js
function sited(plot) {
  const along = (values) => values.forEach((v, i) => plot.ctx.lineTo(plot.X(i + 0.5), plot.Y(v)));
  plot.line = (values, colour, width, dash) => {
    plot.ctx.beginPath();
    along(values);
    plot.stroke(colour, width, dash);
  };
  plot.band = (low, high) => {
    const { ctx } = plot;
    ctx.fillStyle = plot.colours.grid;
    ctx.beginPath();
    along(low);
    for (let i = high.length - 1; i >= 0; i--) ctx.lineTo(plot.X(i + 0.5), plot.Y(high[i]));
    ctx.fill();
  };
  plot.dots = (points, wide, high) => {
    const { ctx } = plot;
    ctx.fillStyle = plot.colours.cloud;
    ctx.beginPath();
    for (const [i, v] of points) {
      ctx.moveTo(plot.X(i + 0.5) + wide, plot.Y(v));
      ctx.ellipse(plot.X(i + 0.5), plot.Y(v), wide, high, 0, 0, 2 * Math.PI);
    }
    ctx.fill();
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
  let gas = 0, profile = 0, seed = 1, time = 0, playing = false, before = null, told = 0;
  const frames = counter();
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
    key, host, element("div", { class: "ibv-row ibv-steer" }, play, step, reset, element("label", {}, "pace", dial, shown)),
    said, readout, spoken,
    element("details", {}, element("summary", {}, "How to read and steer it"), element("p", {}, HELP), element("p", {}, KEYS)),
  );
  el.replaceChildren(root);
  const rows = Math.min(ROWS, runs), x = [0, sites], wide = "ibv-full";
  const strip = sited(plotOf(root, host, {
    title: `${rows} of ${runs} runs: particles on the ring`, x, y: [rows, 0], wide, height: 14 * rows + 4, margin: { ...MARGIN, top: 2, bottom: 2 },
  }));
  const plot = sited(plotOf(root, host, { title: `density: mean of ${runs} runs, and the equation`, x, wide, height: 240 }));

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
    frames.clear();
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
    frames.count(at);
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
    strip.base(() => {
      for (let row = 0; row < rows; row++) strip.segment(strip.X(0), strip.Y(row + 0.5), strip.X(sites), strip.Y(row + 0.5));
    });
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
    reading.time.textContent = time.toFixed(1);
    reading["particles of a run"].textContent = held(mean);
    reading["of the equation"].textContent = held(density);
    frames.show(reading["frames a second"]);
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

  dialled();
  restart();
  const unwatch = watch(host, layout);
  return () => { playing = false; unwatch(); };
}

export default { render, distance, equation, hopping, phi, unpacked };
