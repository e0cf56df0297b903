// A learned law beside simulated particles, in the reader's browser.
//
// `content` comes from ibvonns/show/panels.py. The first half is arithmetic: the networks of
// ibvonns/networks.py, the potentials of law.py, the rollouts of rollout.py, and the particles of
// systems/, in the same order of operations. The second half draws, on the plots of shared.js. Nothing is loaded.

const STEPS = 300;
const DT = (n) => (n + 1) / 100 - n / 100; // as torch.diff of the paper's times
const PACE = 50; // steps a second
const MARGIN_OF_DATA = 0.05; // of the range of the data, by which a path may leave it (bands.MARGIN)

// --- networks ------------------------------------------------------------------------------

const softplus = (x) => (x > 40 ? x : Math.log1p(Math.exp(x)));
const sigmoid = (x) => 1 / (1 + Math.exp(-x));

function matrix(rows, bias, positive = false) {
  const w = Float64Array.from(rows.flat(), positive ? softplus : (x) => x);
  return { ins: rows.length, outs: rows[0].length, w, b: bias && Float64Array.from(bias[0]) };
}

// x W + b
function times(x, m) {
  const y = m.b ? m.b.slice() : new Float64Array(m.outs);
  for (let i = 0, k = 0; i < m.ins; i++) for (let j = 0; j < m.outs; j++) y[j] += x[i] * m.w[k++];
  return y;
}

// y W^T
function back(y, m) {
  const x = new Float64Array(m.ins);
  for (let i = 0, k = 0; i < m.ins; i++) for (let j = 0; j < m.outs; j++) x[i] += y[j] * m.w[k++];
  return x;
}

const layersOf = (tensors, name, kind = "weight", positive = false) => {
  const found = [];
  for (let i = 0; `${name}.${i}.${kind}` in tensors; i++) {
    found.push(matrix(tensors[`${name}.${i}.${kind}`], tensors[`${name}.${i}.bias`], positive));
  }
  return found;
};

// tanh layers, the last affine (networks.MLP)
function mlp(tensors, name) {
  const layers = layersOf(tensors, `${name}.layers`);
  return (x) => {
    layers.forEach((layer, i) => {
      x = times(x, layer);
      if (i < layers.length - 1) x = x.map(Math.tanh);
    });
    return x;
  };
}

// the integrable network of the free energy (networks.INN)
function inn(tensors, name) {
  const layers = layersOf(tensors, `${name}.layers`);
  const last = matrix(tensors[`${name}.last.weight`]), own = tensors[`${name}.cubes.weight`];
  const cubes = own && matrix(own, tensors[`${name}.cubes.bias`]);
  return {
    value(z) {
      const beside = cubes ? times(z, cubes).reduce((sum, c) => sum + c ** 3 / 3, 0) : 0;
      for (const layer of layers) z = times(z, layer).map(softplus);
      return times(z, last)[0] + beside;
    },
    gradient(z) {
      const slopes = [], beside = cubes ? back(times(z, cubes).map((c) => c * c), cubes) : null;
      for (const layer of layers) {
        const before = times(z, layer);
        slopes.push(before.map(sigmoid));
        z = before.map(softplus);
      }
      let adjoint = back([1], last);
      for (let l = layers.length - 1; l >= 0; l--) {
        adjoint = back(adjoint.map((a, i) => a * slopes[l][i]), layers[l]);
      }
      return beside ? adjoint.map((a, i) => a + beside[i]) : adjoint;
    },
  };
}

// the convex network of the dual dissipation potential (networks.PICINN): what depends on z alone is
// worked out once, then the slope in g is asked for as often as one likes; plain loops, since the
// chain asks ten thousand times for each path
function picinn(tensors, name, gain) {
  const part = (which) => layersOf(tensors, `${name}.${which}`);
  const [free, scale, shift, drive, gate] = ["free", "scale", "shift", "drive", "gate"].map(part);
  const mix = layersOf(tensors, `${name}.mix`, "free", true);
  const depth = free.length, width = gain.length, own = tensors[`${name}.along.weight`];
  const along = own && matrix(own), factor = own && matrix(tensors[`${name}.factor.weight`], tensors[`${name}.factor.bias`]);
  const values = drive.map((m) => new Float64Array(m.outs));
  const slopes = drive.map((m) => new Float64Array(m.outs));
  return (z) => {
    const scales = [], shifts = [], gates = [];
    let x = z;
    for (let l = 0; l < depth; l++) {
      scales.push(times(x, scale[l]).map((s, i) => s * gain[i]));
      shifts.push(times(x, shift[l]));
      x = times(x, free[l]).map(softplus);
      gates.push(times(x, gate[l]).map(softplus));
    }
    const raw = (g) => {
      for (let l = 0; l < depth; l++) {
        const y = values[l], slope = slopes[l], outs = y.length;
        y.set(shifts[l]);
        for (let i = 0, k = 0; i < width; i++) {
          const driven = g[i] * scales[l][i];
          for (let j = 0; j < outs; j++) y[j] += driven * drive[l].w[k++];
        }
        if (l) {
          const below = values[l - 1], { w, ins } = mix[l - 1];
          for (let i = 0, k = 0; i < ins; i++) {
            const gated = below[i] * gates[l - 1][i];
            for (let j = 0; j < outs; j++) y[j] += gated * w[k++];
          }
        }
        for (let j = 0; j < outs; j++) {
          const e = Math.exp(-Math.abs(y[j])), positive = y[j] > 0; // one exponential serves both
          slope[j] = (positive ? 1 : e) / (1 + e);
          y[j] = (positive ? y[j] : 0) + Math.log1p(e);
        }
      }
      const gradient = new Float64Array(width);
      let adjoint = mix[depth - 1].w;
      for (let l = depth - 1; l >= 0; l--) {
        const outs = values[l].length, through = slopes[l];
        for (let j = 0; j < outs; j++) through[j] *= adjoint[j] * gates[l][j];
        for (let i = 0, k = 0; i < width; i++) {
          let sum = 0;
          for (let j = 0; j < outs; j++) sum += through[j] * drive[l].w[k++];
          gradient[i] += sum * scales[l][i];
        }
        if (l) adjoint = back(through, mix[l - 1]);
      }
      return gradient;
    };
    const rest = raw(new Float64Array(width)); // Eq. (12): less the tangent at g = 0
    if (!along) return (g) => raw(g).map((v, i) => v - rest[i]);
    const steep = times(z, factor).map(softplus);
    return (g) => {
      const beside = back(times(g, along).map((w, i) => w * steep[i]), along);
      return raw(g).map((v, i) => v - rest[i] + beside[i]);
    };
  };
}

// alpha = rho(<h(x)>) in its frozen gauge (encoder.Encoder), of each internal variable
function encoder(law) {
  const h = mlp(law.tensors, "encoder.h"), rho = mlp(law.tensors, "encoder.rho");
  const [[centre], [width]] = law.tensors["encoder.position"], { reference } = law.architecture;
  const [[offset], [scale]] = ["offset", "scale"].map((name) => law.tensors[`encoder.${name}`]);
  const mix = law.tensors["encoder.mix"] && matrix(law.tensors["encoder.mix"]);
  const zero = reference === null ? null : rho(h([(reference - centre) / width]));
  return (values) => {
    let sum = null;
    for (const value of values) {
      const features = h([(value - centre) / width]);
      sum = sum ? sum.map((s, i) => s + features[i]) : features;
    }
    const raw = rho(sum.map((s) => s / values.length)).map((r, k) => (zero ? r - zero[k] : r));
    return Array.from(mix ? times(raw, mix) : raw, (r, k) => (r - offset[k]) / scale[k]);
  };
}

// --- random numbers ------------------------------------------------------------------------

// mulberry32, and normal numbers in pairs by the polar method
function noise(seed) {
  let state = seed >>> 0, spare = null;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return () => {
    if (spare !== null) { const kept = spare; spare = null; return kept; }
    for (;;) {
      const u = 2 * uniform() - 1, v = 2 * uniform() - 1, s = u * u + v * v;
      if (s > 0 && s < 1) {
        const factor = Math.sqrt((-2 * Math.log(s)) / s);
        spare = v * factor;
        return u * factor;
      }
    }
  };
}

// --- protocols (protocols.py) --------------------------------------------------------------

const smoothed = (t) => t * (1 - Math.exp(-t));
const SHAPES = {
  oscillating: (t) => smoothed(t) * (1 + 2 * Math.sin(2 * Math.PI * t)),
  "smoothed-linear": smoothed,
  sinusoidal: (t) => smoothed(t) * (1 + 0.2 * Math.sin(Math.PI * t)),
};
const KNOTS = 13;
const PALE = 0.35; // of a line whose path has left the data

const path = (make) => Float64Array.from({ length: STEPS + 1 }, (_, n) => make(n / 100));

// a smooth curve through equally spaced knots: cubic pieces with Catmull and Rom's slopes
function through(knots) {
  const slope = (i) => {
    const low = Math.max(i - 1, 0), high = Math.min(i + 1, KNOTS - 1);
    return (knots[high] - knots[low]) / (high - low);
  };
  return path((t) => {
    const place = Math.min((t / 3) * (KNOTS - 1), KNOTS - 1 - 1e-12);
    const i = Math.floor(place), u = place - i;
    const [a, b, m, n] = [knots[i], knots[i + 1], slope(i), slope(i + 1)];
    return a + u * m + u * u * (3 * (b - a) - 2 * m - n) + u * u * u * (2 * (a - b) + m + n);
  });
}

// --- what both systems share ---------------------------------------------------------------

// a range with a share of its width added at either end; and whether a value, NaN also, lies beyond one
const widened = (low, high, share = MARGIN_OF_DATA) => [low - share * (high - low), high + share * (high - low)];
const beyond = (value, [low, high]) => !(value >= low && value <= high);

// the networks of a law, and its units (law.Scales): energy, force, rate and clock, one over a time
function lawOf(law) {
  const T = law.tensors, { spacing, layout } = law.architecture;
  const [[middle], [width]] = T["law.field"], unit = T["law.energy"], rate = T["law.rate"];
  const [low, high] = T["law.reach"];
  return {
    energy: inn(T, "law.energy_network"),
    friction: picinn(T, "law.dissipation_network", law.gain),
    scaled: (field, alpha) => [(field - middle) / width, ...alpha],
    bounded: (alpha) => alpha.map((a, k) => Math.min(Math.max(a, low[k]), high[k])),
    // where alpha was in the data: a path is held within twice as much (law.BEYOND)
    home: low.map((a, k) => widened(a, high[k], -1 / 4)),
    unit, rate, spacing,
    force: unit / width / spacing,
    clock: layout.kind === "Point" ? rate : rate / spacing / width,
  };
}

// all values that protocols have, in the order of the first states
const valuesOf = ({ protocols }) => [...new Set(protocols.flatMap((p) => p.values))];
const starting = (content, value) => content.starts[valuesOf(content).indexOf(value)] || content.starts[0];

// where the particles start: positions of one site after another
function unpacked(content, value, number) {
  const [low, high] = content.range, bytes = atob(starting(content, value).cloud), sites = bytes.length / 2 / number;
  const level = (k) => bytes.charCodeAt(k) + 256 * bytes.charCodeAt(k + 1);
  return Array.from({ length: sites }, (_, i) =>
    Float64Array.from({ length: number }, (_, j) => low + ((high - low) * level(2 * (number * i + j))) / 65535));
}

// --- the trap ------------------------------------------------------------------------------

function trapSystem(content) {
  const { law, system, axes } = content, T = law.tensors;
  const { stiffness: k, viscosity: eta, temperature } = system;
  const { energy, friction, scaled, bounded, home, unit, force, clock } = lawOf(law);
  const zero = energy.value(T["law.reference"][0]);
  const decode = mlp(T, "decoder.network"), encode = encoder(law);
  const [[centre], [spread]] = T["decoder.position"] || [[0], [1]]; // a law that makes a band is not decoded
  const drawn = "decoder.position" in T;
  let slack = 0; // rest length of the second spring, as drawn
  // laws of resampled data, which make a band
  const others = (content.bands ? content.bands.laws.slice(1) : []).map((one) => trapSystem({
    ...content, bands: null, law: one.law, starts: content.starts.map((s, i) => ({ ...s, alpha: one.starts[i] })),
  }));

  function law_at(length, alpha) {
    const slope = energy.gradient(scaled(length, [alpha]));
    const g = -unit * slope[1];
    const speed = clock * friction([alpha])([g / unit])[0];
    return { force: force * slope[0], speed, power: g * speed };
  }

  return {
    others,
    pull: (protocol, value) => path((t) => value * SHAPES[protocol](t)),
    begin: (value) => ({ alpha: [starting(content, value).alpha], mean: [], edges: [], force: [], dissipation: [] }),
    outside: (record, n) => (beyond(record.alpha[n][0], widened(...home[0])) ? "internal variable" : ""),
    // what is seen at step n
    observe(record, lengths, n) {
      const alpha = record.alpha[n][0], here = law_at(lengths[n], alpha);
      const [mean, deviation] = drawn ? this.density(alpha) : [];
      record.mean[n] = drawn ? [mean] : [];
      if (drawn) record.edges.push(mean - 3 * deviation, mean + 3 * deviation);
      record.force[n] = here.force;
      record.dissipation[n] = here.power;
      record.speed = here.speed;
    },
    // the state of step n + 1, after `observe` of step n
    move(record, lengths, n) {
      record.alpha[n + 1] = bounded([record.alpha[n][0] + DT(n) * record.speed]);
    },
    density(alpha) {
      const out = decode([alpha]);
      return [centre + spread * out[0], spread * softplus(out[1])];
    },
    cloud(value, random, number) {
      const [x] = unpacked(content, value, number);
      const jitter = x.map(() => Math.abs(random()) % 1);
      return {
        x, jitter,
        step(lengths, n) {
          const step = DT(n), kick = Math.sqrt((2 * temperature * step) / eta);
          for (let i = 0; i < number; i++) {
            x[i] += ((k * step) / eta) * (lengths[n] - 2 * x[i]) + kick * random();
          }
        },
        measure(lengths, n) {
          const mean = x.reduce((a, b) => a + b, 0) / number, g = k * (lengths[n] - 2 * mean);
          return {
            mean: [mean], alpha: encode(x), force: k * (lengths[n] - mean), dissipation: (g * g) / eta,
          };
        },
      };
    },
    plots: {
      length: { title: "pulled length λ", y: axes.length, wide: "ibv-wide" },
      cloud: { title: "density of the position", x: axes.position, against: "position x", y: [0, 0.7 / Math.sqrt(temperature / (2 * k))], wide: content.bands ? "" : "ibv-broad" },
      mean: { title: "mean position ⟨x⟩", y: axes.position },
      alpha: { title: "internal variable α", y: axes.alpha },
      force: { title: "external force F", y: axes.force },
      ...(content.bands && { miss: { title: "F less its mean, band", y: [-0.02, 0.02] } }),
      energy: { title: "free energy f", x: axes.alpha, against: "internal variable α" },
      dissipation: { title: "dissipation", y: axes.dissipation },
    },
    time: "time",
    springs: 1,
    across: "x",
    thing: ["The trap: a bead between two springs", "Bead: the law's mean. Specks: the particles, at any height"],
    // Rest lengths are left open by the model: these keep the order of wall, bead and end.
    stage({ mean }, lengths, last, [low, high]) {
      slack = -low;
      for (let n = 0; n <= last; n++) if (mean[n][0] - lengths[n] > slack) slack = mean[n][0] - lengths[n];
      slack += 0.5;
      return [Math.min(axes.position[0], ...mean.flat().filter(Number.isFinite)) - 0.6, high + slack + 0.3];
    },
    drawThing(plot, cloud, record, lengths, n, value, gone) {
      const { x: [wall] } = plot, middle = plot.h / 2, [mean] = record.mean[n], end = lengths[n] + slack;
      for (const rest of [0, slack]) plot.segment(plot.X(rest), 2, plot.X(rest), plot.h - 2, "faint", 1, [2, 3]);
      plot.wall(wall);
      plot.spring(wall, mean, middle);
      plot.spring(mean, end, middle);
      plot.pale(gone, () => plot.disc(mean, middle, 8, "law"));
      plot.specks(cloud.x, cloud.jitter.map((j) => 0.5 + 0.84 * (j - 0.5)));
      plot.grip(end);
    },
    landscape(record, lengths, n) {
      const f = (alpha) => unit * (energy.value(scaled(lengths[n], [alpha])) - zero);
      return { curve: f, at: record.alpha[n][0], cloud: (seen) => seen.alpha[0] };
    },
    drawCloud(plot, cloud, record, n, gone) {
      const [mean, deviation] = this.density(record.alpha[n][0]);
      const bins = 48, [low, high] = plot.x, size = (high - low) / bins;
      const counts = new Array(bins).fill(0);
      for (const x of cloud.x) {
        const bin = Math.floor((x - low) / size);
        if (bin >= 0 && bin < bins) counts[bin] += 1;
      }
      plot.bars(counts.map((c, i) => [low + i * size, size, c / (cloud.x.length * size)]));
      const bell = (x) => Math.exp(-(((x - mean) / deviation) ** 2) / 2) / (deviation * Math.sqrt(2 * Math.PI));
      plot.pale(gone, () => plot.curve(bell));
      plot.specks(cloud.x, cloud.jitter.map((j) => 0.15 + 1.2 * j));
    },
  };
}

// --- the chain -----------------------------------------------------------------------------

// the density of a spring at its state, of laws with two Gaussians alone (decoders.MixtureDecoder)
function mixture({ tensors: T, architecture: { decoder, wells } }) {
  if (decoder !== "mixture" || !T["decoder.given"]) return null;
  const share = mlp(T, "decoder.share"), widths = ["0", "1"].map((i) => mlp(T, `decoder.widths.${i}`));
  const [[centre], [width]] = T["decoder.given"], spread = T["decoder.position"][1][0];
  const bell = (x, m, d) => Math.exp(-(((x - m) / d) ** 2) / 2) / d;
  return (strain, alpha) => {
    const left = sigmoid(share(alpha)[0]), z = [(strain - centre) / width, ...alpha];
    const [s, t] = widths.map((net) => spread * softplus(net(z)[0]));
    const [a, b] = [strain + wells * (left - 1), strain + wells * left];
    return (x) => (left * bell(x, a, s) + (1 - left) * bell(x, b, t)) / 2.5066;
  };
}

function chainSystem(content) {
  const { law, system, axes, rival } = content, T = law.tensors;
  const { springs, natural_length: L0, viscosity: eta, temperature, stiffness } = system;
  const { barrier_strain: barrier, well_strain: well } = system, { neighbours, internal } = law.architecture;
  const { energy, friction, scaled, bounded, home, unit, force, rate: speed, clock, spacing } = lawOf(law);
  const mobility = T["law.mobility"][0].map(softplus), encode = encoder(law), decode = mixture(law), many = internal > 1;
  const tension = (e) => (e <= barrier ? stiffness[0] * e : stiffness[1] * (e - well));
  const velocity = (lengths, n) => (n ? (lengths[n] - lengths[n - 1]) / DT(n - 1) : 0);

  // what the springs are before any driving: tensions, forces on alpha, and the rates at g of the bond,
  // of which a law with neighbours takes g of the bond below, too: phi knows the net force on the site
  function springsAt(strain, alpha) {
    return strain.map((e, i) => {
      const z = scaled(e, alpha[i]), slope = energy.gradient(z), drag = neighbours ? null : friction(z);
      const g_alpha = Array.from(slope.slice(1), (x) => -unit * x), inner = g_alpha.map((x) => x / unit);
      return {
        tension: force * slope[0],
        g_alpha,
        rates(g_v, below) {
          const g = [g_v / force, ...inner];
          const s = neighbours ? [0, ...friction([...z, (g_v - below) / force])(inner)] : drag(g);
          return g.map((x, k) => (k ? clock : speed) * (s[k] + mobility[k] * x));
        },
      };
    });
  }

  // The g_v of the last spring at which it moves at v. The velocity rises with g_v at a slope of at
  // least the mobility, which brackets the root; secants within the bracket, halved where they stall.
  // With neighbours a bond has plain friction.
  function driving(spring, v, guess) {
    if (neighbours) return (v / (speed * mobility[0])) * force;
    const miss = (g) => spring.rates(g)[0] - v;
    const reach = ((Math.abs(miss(0)) * force) / (speed * mobility[0])) * (1 + 1e-6) + 1e-12 * force;
    let low = -reach, high = reach;
    let before = guess > low && guess < high ? guess : 0, missed = miss(before);
    let here = before - (missed * force) / (speed * mobility[0]);
    for (let n = 0; n < 100 && Math.abs(missed) > 1e-13 * speed; n++) {
      if (missed < 0) low = Math.max(low, before); else high = Math.min(high, before);
      if (!(here > low && here < high) || n % 4 === 3) here = (low + high) / 2;
      const now = miss(here), next = here - (now * (here - before)) / (now - missed);
      [before, missed, here] = [here, now, next];
    }
    return before;
  }

  // rates of strain and alpha, the force and the dissipation of all springs, with v_n given
  function law_at(found, v_n) {
    const strain = [], alpha = [];
    let before = 0, power = 0, pulled = 0, below = 0;
    for (let i = 0; i < springs; i++) {
      const last = i === springs - 1, spring = found[i];
      const g_v = last ? driving(spring, v_n, found.guess) : found[i + 1].tension - spring.tension;
      if (last) found.guess = g_v;
      const free = () => (spring.free = spring.free || spring.rates(g_v, below)); // whatever v_n is
      const [own, ...change] = last ? spring.rates(g_v, below) : free(), v = last ? v_n : own;
      power += change.reduce((sum, c, k) => sum + spring.g_alpha[k] * c, g_v * own);
      strain.push((v - before) / spacing);
      alpha.push(change);
      [before, below] = [v, g_v];
      if (last) pulled = g_v + spring.tension;
    }
    return { strain, alpha, force: pulled, power };
  }

  return {
    rival: rival && chainSystem({
      ...content, law: rival.law, rival: null, starts: content.starts.map((s, i) => ({ ...s, ...rival.starts[i] })),
    }),
    pull(name) {
      const { lengths } = content.protocols.find((p) => p.name === name) || {};
      return lengths ? Float64Array.from(lengths) : path((t) => content.velocity * SHAPES[name](t));
    },
    // `inner` holds all internal variables of each spring, `alpha` the first, which is drawn
    begin(value) {
      const { mean, alpha } = starting(content, value);
      const fill = (x) => new Array(springs).fill(x);
      return { alpha: [fill(alpha[0])], inner: [fill(alpha)], mean: [fill(mean)], edges: [], force: [], dissipation: [] };
    },
    outside(record, n) {
      if (content.strains && record.mean[n].some((e) => beyond(e, widened(...content.strains)))) return "strain of a spring";
      return record.inner[n].some((a) => a.some((v, k) => beyond(v, widened(...home[k])))) ? "internal variable" : "";
    },
    observe(record, lengths, n) {
      const { guess } = record.found || { guess: 0 };
      record.found = Object.assign(springsAt(record.mean[n], record.inner[n]), { guess });
      const here = law_at(record.found, velocity(lengths, n)); // entry n belongs to the state at n
      record.force[n] = here.force;
      record.dissipation[n] = here.power;
      record.edges.push(...record.mean[n]);
    },
    move(record, lengths, n) {
      const moved = law_at(record.found, velocity(lengths, n + 1)), step = DT(n);
      record.mean[n + 1] = record.mean[n].map((e, i) => e + step * moved.strain[i]);
      record.inner[n + 1] = record.inner[n].map((a, i) => bounded(a.map((x, k) => x + step * moved.alpha[i][k])));
      record.alpha[n + 1] = record.inner[n + 1].map((a) => a[0]);
    },
    cloud(value, random, number) {
      const x = unpacked(content, value, number);
      const jitter = Float64Array.from({ length: number }, () => 0.3 * Math.tanh(random()));
      return {
        x, jitter,
        step(lengths, n) {
          const step = DT(n), kick = Math.sqrt((2 * temperature * step) / eta) / L0;
          const drift = step / eta / L0, stretch = (lengths[n + 1] - lengths[n]) / L0;
          for (let j = 0; j < number; j++) {
            let here = tension(x[0][j]), before = 0;
            for (let i = 0; i < springs; i++) {
              const last = i === springs - 1, next = last ? 0 : tension(x[i + 1][j]);
              const move = last ? stretch : drift * (next - here) + kick * random();
              x[i][j] += move - before;
              before = move;
              here = next;
            }
          }
        },
        measure(lengths, n) {
          const pulled = x[springs - 1].reduce((sum, e) => sum + tension(e), 0) / number, inner = x.map(encode);
          return {
            mean: x.map((part) => part.reduce((a, b) => a + b, 0) / number),
            alpha: inner.map((a) => a[0]),
            inner,
            force: pulled + eta * velocity(lengths, n),
          };
        },
      };
    },
    plots: {
      length: { title: "displacement λ of the end", y: axes.length, wide: "ibv-wide" },
      ...(rival && { loop: { title: "force F against pull λ", x: axes.length, against: "displacement λ", y: axes.force } }),
      cloud: { title: "strain of each spring", x: [0.4, springs + 0.6], against: "spring", y: [-1, 5], whole: true, wide: rival ? "" : "ibv-broad" },
      mean: { title: "mean strains ε", y: axes.position },
      alpha: { title: `internal variables α${many ? "\u2081" : ""}`, y: axes.alpha },
      force: { title: "external force F", y: axes.force },
      energy: { title: "free energy f / kT", x: axes.position, against: "strain ε" },
      dissipation: { title: "dissipation", y: axes.dissipation },
    },
    time: "time",
    springs,
    rest: springs * L0,
    across: "y",
    thing: ["The chain: above one simulated, below the law's", "Above one of the simulated, below the law's means. Bold, filled: a spring beyond its barrier"],
    stage: (record, lengths, last, [, high], value) => [-0.02 * (value + high), 1.03 * (value + high)],
    drawThing(plot, cloud, record, lengths, n, value, gone) {
      const end = value + lengths[n], rows = [cloud.x.map((part) => part[0]), record.mean[n]];
      plot.wall(0);
      rows.forEach((strains, row) => {
        const y = (0.28 + 0.44 * row) * plot.h, colour = row ? "law" : "cloud";
        let from = 0;
        plot.pale(row && gone, () => strains.forEach((e, i) => {
          const to = i < springs - 1 ? from + L0 * (1 + e) : end, over = e > barrier;
          plot.spring(from, to, y, 4, colour, over);
          if (i < springs - 1) plot.disc(to, y, 3.5, colour, !over);
          from = to;
        }));
      });
      plot.grip(end);
    },
    landscape(record, lengths, n, spring) {
      const alpha = record.inner[n][spring];
      const f = (strain) => (unit * energy.value(scaled(strain, alpha))) / temperature;
      return { curve: f, at: record.mean[n][spring], cloud: (seen) => seen.mean[spring] };
    },
    drawCloud(plot, cloud, record, n, gone) {
      for (let i = 0; i < springs; i++) {
        const density = decode && decode(record.mean[n][i], record.inner[n][i]);
        plot.specks(cloud.jitter.map((j) => i + 1 + j), cloud.x[i]);
        if (density) plot.pale(gone, () => plot.violin(i + 1, (x) => Math.min(0.6 * density(x), 0.47)));
      }
      plot.pale(gone, () => record.mean[n].forEach((e, i) => plot.dash(i + 1, e)));
    },
  };
}

const SYSTEMS = { trap: trapSystem, chain: chainSystem };

// --- drawing -------------------------------------------------------------------------------

// what is drawn on a plot of shared.js
function marked(root, host, about, time) {
  const plot = plotOf(root, host, { ...about, label: about.label || `${about.title}, against ${about.against || time}` });
  const { clipped, stroke } = plot, margin = about.margin || MARGIN;
  const time_of = (n) => n / 100;
  // what follows step `left`, where the path leaves the data, is pale
  plot.line = (values, last, { width = 1.6, dash = [], shade = 1, colour = "law", at = time_of, left = Infinity } = {}) => clipped((ctx) => {
    for (const [from, to, strong] of [[0, Math.min(left, last), 1], [left, last, PALE]]) {
      if (from > to) continue;
      ctx.globalAlpha = shade * strong;
      ctx.beginPath();
      for (let n = from; n <= to; n++) ctx.lineTo(plot.X(at(n)), plot.Y(values(n)));
      stroke(colour, width, dash);
    }
  });
  plot.pale = (is, draw) => {
    plot.ctx.globalAlpha = is ? PALE : 1;
    draw();
    plot.ctx.globalAlpha = 1;
  };
  plot.band = (low, high) => {
    plot.ctx.fillStyle = plot.colours.fill;
    plot.ctx.fillRect(margin.left, plot.Y(high), plot.w - margin.left - margin.right, plot.Y(low) - plot.Y(high));
  };
  // between two curves; faint where the last says so
  plot.between = (low, high, last, faint) => clipped((ctx) => {
    ctx.fillStyle = plot.colours.law;
    for (let n = 0; n < last; n++) {
      ctx.globalAlpha = faint(n) ? 0.1 : 0.28;
      ctx.beginPath();
      for (const [m, f] of [[n, low], [n + 1, low], [n + 1, high], [n, high]]) ctx.lineTo(plot.X(time_of(m)), plot.Y(f(m)));
      ctx.fill();
    }
  });
  plot.curve = (f) => clipped((ctx) => {
    ctx.beginPath();
    for (let p = margin.left; p <= plot.w - margin.right; p += 2) ctx.lineTo(p, plot.Y(f(plot.unX(p))));
    stroke("law", 1.8);
  });
  plot.violin = (at, f) => {
    plot.ctx.beginPath();
    for (const side of [-1, 1]) {
      let open = false; // a pen up where there is next to nothing
      for (let p = margin.top; p <= plot.h - margin.bottom; p += 2) {
        const wide = f(plot.unY(p));
        if (wide > 0.005) plot.ctx[open ? "lineTo" : "moveTo"](plot.X(at + side * wide), p);
        open = wide > 0.005;
      }
    }
    stroke("law", 1.3);
  };
  plot.bars = (bars) => clipped((ctx) => {
    ctx.fillStyle = plot.colours.cloud;
    ctx.globalAlpha = 0.35;
    for (const [left, size, high] of bars) {
      if (high) ctx.fillRect(plot.X(left), plot.Y(high), plot.X(left + size) - plot.X(left), plot.Y(0) - plot.Y(high));
    }
  });
  plot.specks = (xs, ys) => clipped((ctx) => {
    ctx.fillStyle = plot.colours.cloud;
    ctx.globalAlpha = 0.6;
    for (let i = 0; i < xs.length; i++) ctx.fillRect(plot.X(xs[i]) - 1, plot.Y(ys[i]) - 1, 2, 2);
  });
  plot.rings = (points) => clipped((ctx) => {
    ctx.beginPath();
    for (const [a, b] of points) {
      ctx.moveTo(plot.X(a) + 2.6, plot.Y(b));
      ctx.arc(plot.X(a), plot.Y(b), 2.6, 0, 2 * Math.PI);
    }
    stroke("cloud", 1.2);
  });
  plot.ball = (a, b) => clipped(() => plot.disc(a, plot.Y(b), 5, "law"));
  plot.dash = (a, b) => clipped(() => plot.segment(plot.X(a - 0.42), plot.Y(b), plot.X(a + 0.42), plot.Y(b), "ink", 1.6));
  plot.now = (t) => plot.segment(plot.X(t), margin.top, plot.X(t), plot.h - margin.bottom, "faint", 1, [3, 3]);
  // parts of the trap and the chain; heights are pixels
  plot.disc = (a, y, size, colour, empty) => {
    plot.ctx.fillStyle = plot.colours[empty ? "ground" : colour];
    plot.ctx.beginPath();
    plot.ctx.arc(plot.X(a), y, size, 0, 2 * Math.PI);
    plot.ctx.fill();
    if (empty) stroke(colour, 1.3);
  };
  plot.spring = (from, to, y, turns = 8, colour = "ink", bold = false) => {
    const [a, b] = [plot.X(from), plot.X(to)];
    plot.ctx.beginPath();
    plot.ctx.moveTo(a, y);
    for (let i = 0; i < turns; i++) plot.ctx.lineTo(a + ((b - a) * (i + 1)) / (turns + 1), y + (i % 2 ? -5 : 5));
    plot.ctx.lineTo(b, y);
    stroke(colour, bold ? 2.2 : 1);
  };
  plot.wall = (at) => {
    plot.segment(plot.X(at), 2, plot.X(at), plot.h - 2, "ink", 2);
    for (let y = 8; y < plot.h; y += 8) plot.segment(plot.X(at), y - 6, plot.X(at) - 6, y, "faint");
  };
  plot.grip = (at) => {
    plot.ctx.fillStyle = plot.colours.ink;
    plot.ctx.fillRect(plot.X(at) - 3, 4, 6, plot.h - 8);
  };
  const { base } = plot;
  if (!about.bare) plot.base = (draw) => base(() => { if (plot.under) plot.under(); plot.axes(about.against || time, about.whole); draw(); });
  return plot;
}

// --- the panel -----------------------------------------------------------------------------

const UNITS = " All numbers are in the units of the model, and so have no dimension.";
const HELP = {
  trap: ({ bands }) => "Lines and filled dots: the learned law. Rings, bars and specks: the particles. Grey band: pulled " +
    "lengths that occurred in training. Lines are pale from where the path has left the data: there the law guesses." +
    (bands ? ` The force is the mean of ${bands.laws.length} laws of resampled data, in a band that should hold ` +
      `${Math.round(100 * bands.share)} % of the truth; a plot of its own shows it large.` : "") + UNITS,
  chain: ({ law, rival, label = "the learned law", trained }) =>
    `Lines, ${law.architecture.decoder === "mixture" ? "outlines (the decoded density)" : "strokes (the mean strain)"} ` +
    `and the filled dot: ${label}. Rings and specks: 200 simulated chains. The farther a spring from the wall, the darker its line.` +
    (law.architecture.internal > 1 ? " Of the internal variables the first is drawn." : "") +
    (rival ? ` Dashed: ${rival.label}; among the strains that of the chosen spring alone.` : "") +
    (trained ? " Grey band: displacements that occurred in training." : "") +
    " Lines are pale from where the path has left the data: there the law guesses." + UNITS,
};
const KEYS = "Draw: drag over the first plot, or tab to its handles: left and right choose a time, up and down move it. " +
  "By hand: press play, then drag the end in the topmost picture, or the slider, or use the arrow keys. Everything runs in this page.";

function render({ model, el }) {
  const content = model.get("content"), system = SYSTEMS[content.kind](content), now = { n: 0 };
  const [low, high] = system.plots.length.y, { rival, others = [] } = system, { bands } = content;
  const laws = rival ? [system, rival] : [system, ...others];
  const frames = counter();
  let lengths, record, records, cloud, seen, seed = 1, playing = false, handle = 0, clock = null, speed = 0, held = [];
  let protocol = content.protocols[0], value = protocol.values[0], mode = protocol.name, spring = system.springs - 1;
  let knots = new Array(KNOTS).fill(0);

  // --- what stands on the page
  const root = element("section", { class: "ibv-panel", "aria-label": content.description });
  const choose = (name) => () => { select(name); };
  const modes = [...content.protocols.map((p) => [p.name, p.label]), ["draw", "Draw"], ["hand", "By hand"]];
  const buttons = new Map(modes.map(([name, label]) => [
    name, element("button", { type: "button", "aria-pressed": "false", onclick: choose(name) }, label),
  ]));
  const play = element("button", { type: "button", onclick: () => (playing ? pause() : start()) }, "Play");
  const reset = element("button", { type: "button", onclick: () => { pause(); restart(true); } }, "Reset");
  const dial = element("input", { type: "range", min: 0, step: 1, value: 0, oninput: () => turn() });
  const dialled = element("output");
  const dialLabel = element("label", {}, content.kind === "trap" ? "speed" : "first length", dial, dialled);
  const fine = Number(((high - low) / 60).toPrecision(1)); // a step of which 0 is a multiple
  const hand = element("input", { type: "range", min: Math.ceil(low / fine) * fine, max: high, step: fine, value: 0 });
  const handLabel = element("label", {}, "pulled end", hand);
  const which = element("select", { onchange: () => { spring = which.selectedIndex; layout(); } });
  for (let i = 1; i <= system.springs; i++) which.append(element("option", {}, `spring ${i}`));
  which.selectedIndex = spring;
  const whichLabel = element("label", {}, element("span", { class: "ibv-said" }, rival ? "free energy and dashes of" : "free energy of"), which);
  const badge = element("p", { class: "ibv-badge", role: "status" });
  const spoken = element("p", { class: "ibv-spoken", "aria-live": "polite" });
  const host = element("div", { class: "ibv-plots" });
  const readout = element("dl");
  const reading = {};
  for (const name of ["time", "pulled end", "force", "dissipation", "frames a second"]) {
    reading[name] = element("dd", {}, "\u2013");
    readout.append(element("div", name.startsWith("frames") ? { class: "ibv-said" } : {}, element("dt", {}, name), reading[name]));
  }
  const key = element("p", { class: "ibv-key" }, element("i", {}, `\u2014 ${content.label || "learned law"}`),
    ...(rival ? [` \u00a0 - - ${content.rival.label}`] : []), " \u00a0 ", element("b", {}, "\u25cb particles"),
    );
  root.append(
    element("div", { class: "ibv-row", role: "group", "aria-label": "Protocol" }, ...buttons.values()),
    element("div", { class: "ibv-row" }, key, ...(system.springs > 1 ? [whichLabel] : [])), host,
    element("div", { class: "ibv-row ibv-steer" }, play, reset, dialLabel, handLabel, badge), readout, spoken,
    element("details", {}, element("summary", {}, "How to read and steer it"),
      element("p", {}, `In the topmost picture: ${system.thing[1]}. ${HELP[content.kind](content)}`), element("p", {}, KEYS)),
  );
  el.replaceChildren(root);
  const plots = {};
  const thing = { title: system.thing[0], label: system.thing.join(". "), wide: "ibv-full", height: 56, margin: { left: 12, right: 12, top: 2, bottom: 2 }, bare: true };
  for (const [name, about] of Object.entries({ thing, ...system.plots })) plots[name] = marked(root, host, about, system.time);

  // --- handles of the drawn protocol: one stop of the tab key, arrows go on from there
  const handles = Array.from({ length: KNOTS - 1 }, (_, i) => {
    const k = i + 1, t = (3 * k) / (KNOTS - 1);
    const name = `pulled end at time ${t}`;
    const dot = element("span", {
      role: "slider", tabindex: "-1", "aria-orientation": "vertical", "aria-label": name,
      "aria-valuemin": low, "aria-valuemax": high,
    });
    dot.addEventListener("keydown", (event) => {
      const step = (high - low) / 40;
      const moves = { ArrowUp: step, ArrowDown: -step, PageUp: 5 * step, PageDown: -5 * step };
      const jumps = { ArrowLeft: -1, ArrowRight: 1 };
      if (event.key in moves) shape(k, knots[k] + moves[event.key]);
      else if (event.key === "Home") shape(k, low);
      else if (event.key === "End") shape(k, high);
      else if (event.key in jumps) {
        handle = Math.min(Math.max(i + jumps[event.key], 0), KNOTS - 2);
        place();
        handles[handle].focus();
      } else return;
      event.preventDefault();
    });
    dot.addEventListener("focus", () => { handle = i; place(); });
    plots.length.area.append(dot);
    return dot;
  });

  function place() {
    handles.forEach((dot, i) => {
      const k = i + 1;
      dot.hidden = mode !== "draw";
      dot.style.left = `${plots.length.X((3 * k) / (KNOTS - 1))}px`;
      dot.style.top = `${plots.length.Y(knots[k])}px`;
      dot.setAttribute("aria-valuenow", knots[k].toFixed(3));
      dot.setAttribute("aria-valuetext", short(knots[k]));
      dot.tabIndex = i === handle ? 0 : -1;
    });
  }

  // the axis is for any first length: a short chain is not pushed to nothing
  const least = () => (content.kind === "chain" ? Math.max(low, 0.5 * system.rest - value) : low);
  const within = (to) => Math.min(Math.max(to, least()), high);

  function shape(k, to) {
    knots[k] = within(to);
    renew(through(knots));
  }

  const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  // In Draw a drag over the protocol sets every knot that it passes; the first is where the system rests. By hand
  // a drag moves the end: along the picture of the thing, or, where no finger scrolls, over the protocol. In
  // other modes a drag is the page's.
  let last = null, due = 0;
  const canvas = plots.length.area, stage = plots.thing.area;
  const placed = (event) => {
    const box = canvas.getBoundingClientRect();
    return [plots.length.unX(event.clientX - box.left), plots.length.unY(event.clientY - box.top)];
  };
  const reach = (event) => {
    const [t, v] = placed(event), here = { k: Math.min(Math.max(Math.round((t / 3) * (KNOTS - 1)), 1), KNOTS - 1), v };
    const from = last || here, reachTo = Math.max(Math.abs(here.k - from.k), 1);
    for (let i = 0; i <= reachTo; i++) {
      const k = Math.round(from.k + ((here.k - from.k) * i) / reachTo);
      knots[k] = within(from.v + ((here.v - from.v) * i) / reachTo);
    }
    last = here;
    if (!due) due = requestAnimationFrame(() => { due = 0; if (mode === "draw") renew(through(knots)); }); // once a frame
  };
  const pull = (to) => {
    if (!playing && !calm()) start();
    hand.value = within(to);
  };
  const drags = (area, allowed, begin, move, end) => {
    area.addEventListener("pointerdown", (event) => {
      if (event.button || !allowed(event)) return;
      area.setPointerCapture(event.pointerId);
      begin(event);
      event.preventDefault();
    });
    area.addEventListener("pointermove", (event) => { if (area.hasPointerCapture(event.pointerId)) move(event); });
    for (const name of ["pointerup", "pointercancel"]) area.addEventListener(name, end);
  };
  drags(canvas, ({ pointerType }) => mode === "draw" || (mode === "hand" && pointerType !== "touch"), (event) => {
    if (mode === "hand") return pull(placed(event)[1]);
    pause();
    last = null;
    reach(event);
  }, (event) => (mode === "draw" ? reach(event) : pull(placed(event)[1])), () => {
    if (mode !== "draw" || !last) return;
    last = null;
    renew(through(knots)); // now with all that the particles will do
    if (!calm()) start();
  });
  let grabbed = null;
  drags(stage, () => mode === "hand", ({ clientX }) => { grabbed = { clientX, from: lengths[now.n] }; }, ({ clientX }) => {
    const by = clientX - grabbed.clientX, { unX } = plots.thing;
    if (Math.abs(by) > 4) pull(grabbed.from + unX(by) - unX(0)); // a swipe up the page is no pull
  }, () => {});

  // --- what happens
  function select(name) {
    pause();
    mode = name;
    const found = content.protocols.find((p) => p.name === name);
    // its values: speeds of the trap, first lengths of the chain, of which the reader's own pull has all
    const firsts = content.kind === "chain" ? valuesOf(content).sort((a, b) => a - b) : content.protocols[0].values;
    protocol = found || { values: firsts };
    dial.max = protocol.values.length - 1;
    dial.value = Math.max(protocol.values.indexOf(value), 0);
    if (name === "draw") {
      knots = knots.map((_, k) => within(lengths[(k * STEPS) / (KNOTS - 1)]));
    }
    canvas.classList.toggle("ibv-draw", mode === "draw");
    stage.classList.toggle("ibv-pull", mode === "hand");
    for (const [each, button] of buttons) button.setAttribute("aria-pressed", String(each === name));
    turn();
  }

  function turn() {
    value = protocol.values[Number(dial.value)];
    dialled.textContent = content.kind === "trap" ? `v = ${value.toFixed(3)}` : `L = ${value.toFixed(2)}`;
    dial.setAttribute("aria-valuetext", dialled.textContent);
    dialLabel.hidden = protocol.values.length < 2 || (content.kind === "trap" && !isPaper());
    handLabel.hidden = mode !== "hand";
    hand.value = 0;
    renew(isPaper() ? system.pull(protocol.name, value) : mode === "draw" ? through(knots.map(within)) : new Float64Array(STEPS + 1));
  }

  const isPaper = () => content.protocols.some((p) => p.name === mode);

  // a new protocol: the law's whole path at once (by hand: step by step, as the hand moves)
  function renew(pulled) {
    lengths = pulled;
    records = laws.map((each) => ({ ...each.begin(value), from: Infinity })); // where it leaves the data
    [record] = records;
    speed = 0;
    laws.forEach((each, i) => each.observe(records[i], lengths, 0));
    leave(0);
    for (let n = 0; n < STEPS && mode !== "hand"; n++) onward(n);
    restart(false);
  }

  function onward(n) {
    laws.forEach((each, i) => {
      each.move(records[i], lengths, n);
      each.observe(records[i], lengths, n + 1);
    });
    leave(n + 1);
  }

  // the pulled ends of the training data, as displacements; one's own protocols have a band of total lengths
  function trained() {
    const shift = content.protocols[0].lengths ? value : 0;
    return content.trained && content.trained.map((end) => end - shift);
  }

  // whether paths leave their data at a step, and by what: what follows remembers it
  function leave(n) {
    const range = trained(), out = range && beyond(lengths[n], widened(...range)) ? "pulled end" : "";
    records.forEach((each, i) => {
      const why = bands ? (told(n).gone ? out || "internal variable" : "") : out || laws[i].outside(each, n);
      if (why && each.from > n) Object.assign(each, { from: n, why });
    });
  }

  function restart(again) {
    if (again) {
      seed += 1;
      if (mode === "hand") return turn();
    }
    cloud = system.cloud(value, noise(1000 * seed + 7), content.particles);
    seen = [{ n: 0, ...cloud.measure(lengths, 0) }];
    held = mode === "hand" || last ? ends(cloud) : ahead();
    now.n = 0;
    clock = null;
    layout();
  }

  // how far the particles are from one another, and how far they come by the very draws that will play
  const ends = ({ x }) => [x].flat().reduce(([low, high], part) => part.reduce((all, v) => {
    if (v < all[0]) all[0] = v;
    if (v > all[1]) all[1] = v;
    return all;
  }, [low, high]), [Infinity, -Infinity]);
  const joined = ([a, b], [c, d]) => [Math.min(a, c), Math.max(b, d)];
  function ahead() {
    const trial = system.cloud(value, noise(1000 * seed + 7), content.particles);
    let found = ends(trial);
    for (let n = 0; n < STEPS; n++) {
      trial.step(lengths, n);
      found = joined(found, ends(trial));
    }
    return found;
  }

  function start() {
    if (now.n >= STEPS) restart(true);
    playing = true;
    play.textContent = "Pause";
    clock = null;
    frames.clear();
    requestAnimationFrame(tick);
  }

  function pause() {
    if (!playing) return;
    playing = false;
    play.textContent = "Play";
    const force = bands ? told(now.n).middle : record.force[now.n];
    spoken.textContent = `Paused at time ${short(now.n / 100)}, force ${short(force)}.`;
  }

  function tick(at) {
    if (!playing || !root.isConnected) return;
    if (clock === null) clock = at - (1000 * now.n) / PACE;
    const until = Math.min(Math.floor(((at - clock) / 1000) * PACE), STEPS, now.n + 10);
    while (now.n < until) advance();
    frames.count(at);
    paint();
    if (now.n >= STEPS) {
      pause();
      spoken.textContent = "The end of the protocol is reached.";
    } else requestAnimationFrame(tick);
  }

  function advance() {
    const live = mode === "hand";
    if (live) follow(now.n);
    cloud.step(lengths, now.n);
    now.n += 1;
    if (live) held = joined(held, ends(cloud));
    if (now.n % 10 === 0) seen.push({ n: now.n, ...cloud.measure(lengths, now.n) });
    // a path may leave its axes
    if ((now.n % 10 === 0 && (stretched() || (live && bands))) || outgrown()) layout();
  }

  // The end goes where the hand is, without a jump of its velocity, which is smoothed over 0.05 time units, at most
  // at a quarter of the axis in a tenth of a time unit, and no faster than the fastest of one's own protocols:
  // there the laws are at home.
  const steps = content.protocols.flatMap(({ lengths: l = [] }) => l.slice(1).map((x, n) => Math.abs(x - l[n])));
  const most = steps.length ? Math.max(...steps) : (high - low) / 40;
  function follow(n) {
    const wish = 0.05 * (within(Number(hand.value)) - lengths[n]); // so slow that the end does not overshoot
    speed += 0.2 * (Math.min(Math.max(wish, -most), most) - speed);
    lengths[n + 1] = within(lengths[n] + speed);
    onward(n);
  }

  // --- drawing
  const shades = (i) => (system.springs === 1 ? 1 : 0.35 + (0.65 * i) / (system.springs - 1));

  // the mean of several laws, how far either way the band reaches, and whether over half have left the data
  // (ibvonns.bands): what a law has not seen has set `reach`
  function told(n) {
    const values = records.map((each) => each.force[n]), number = values.length;
    const middle = values.reduce((a, b) => a + b, 0) / number;
    const variance = values.reduce((sum, v) => sum + (v - middle) ** 2, 0) / (number - 1);
    const wide = Math.sqrt(Math.max(variance, (variance + bands.usual) / 2)), [short, long] = bands.length;
    const gone = records.filter(({ alpha }, i) => {
      const [least, most] = bands.laws[i].alpha, a = alpha[n][0];
      return !(lengths[n] >= short && lengths[n] <= long && a >= least && a <= most); // true of NaN
    });
    return { middle, wide, gone: gone.length > number / 2 };
  }

  // the band from the beginning to a step; what follows a step beyond the data remembers it
  function banded(until) {
    let outside = false;
    return Array.from({ length: until + 1 }, (_, n) => {
      const here = told(n);
      outside = outside || here.gone;
      return { ...here, outside, away: here.wide * (outside ? bands.beyond : bands.reach) };
    });
  }

  // axes hold what the protocols do, and stretch where the reader pulls farther
  function fit(values, name) {
    const wanted = stretch(system.plots[name].y, values), changed = wanted.some((v, i) => v !== plots[name].y[i]);
    plots[name].y = wanted;
    return changed;
  }

  // an axis as it was meant, or as far as values go beyond it
  function stretch([from, to], values) {
    const [bottom, top] = [Math.min, Math.max].map((f, i) => values.reduce((a, b) => f(a, b), [from, to][i])), room = 0.05 * (top - bottom);
    return [bottom < from ? bottom - room : from, top > to ? top + room : to];
  }
  const outgrown = () => beyond(held[0], plots.cloud[system.across]) || beyond(held[1], plots.cloud[system.across]);

  const stretched = () => TIMED.map((name) => {
    const drawn = [...(name === "alpha" || (bands && name !== "force") ? [record] : records).map((each) => each[name]), seen.map((s) => s[name])];
    return fit(drawn.flat(2).filter(Number.isFinite), name);
  }).includes(true);

  // of the other law: what the first has as a line, but alpha, whose gauge is another
  const dashed = () => ({ dash: [6, 4], colour: "ink", left: records[1].from });

  // what laws do until a step
  function curves(name, until) {
    const plot = plots[name], left = record.from;
    if (name === "miss") {
      const band = banded(until);
      plot.between((n) => -band[n].away, (n) => band[n].away, until, (n) => band[n].outside);
      plot.line(() => 0, until);
      return;
    }
    if (name === "loop") {
      const at = (n) => lengths[n];
      plot.line((n) => record.force[n], until, { at, left });
      plot.line((n) => records[1].force[n], until, { at, ...dashed() });
    } else if (name === "mean" || name === "alpha") {
      for (let i = 0; i < system.springs; i++) plot.line((n) => record[name][n][i], until, { shade: shades(i), left });
      if (rival && name === "mean") plot.line((n) => records[1].mean[n][spring], until, dashed());
    } else if (bands && name === "force") {
      const band = banded(until);
      plot.between((n) => band[n].middle - band[n].away, (n) => band[n].middle + band[n].away, until, (n) => band[n].outside);
      plot.line((n) => band[n].middle, until, { left });
    } else {
      plot.line((n) => record[name][n], until, { left });
      if (rival) plot.line((n) => records[1][name][n], until, dashed());
    }
  }
  const TIMED = ["mean", "alpha", "force", "dissipation"], DRAWN = [...(rival ? ["loop"] : []), ...TIMED, ...(bands ? ["miss"] : [])];

  function layout() {
    const live = mode === "hand";
    const until = live ? now.n : STEPS;
    stretched();
    if (bands) {
      const most = Math.max(...banded(until).map(({ away }) => away).filter(Number.isFinite), 0.01);
      plots.miss.y = [-1.3 * most, 1.3 * most];
    }
    if (rival) plots.loop.y = plots.force.y;
    plots.energy.x = content.kind === "trap" ? plots.alpha.y : plots.mean.y;
    plots.cloud[system.across] = stretch(system.plots.cloud[system.across], [...held, ...record.edges].filter(Number.isFinite));
    const range = trained(), band = range && range.map((end) => Math.min(Math.max(end, low), high));
    // the trap's picture has one scale for all speeds; ten springs need all the room
    const pulled = [0, ...(content.kind === "trap" ? range || [] : live ? [high] : []), ...lengths.slice(0, until + 1)];
    plots.thing.x = system.stage(record, lengths, until, [Math.min(...pulled), Math.max(...pulled)], value);
    plots.thing.base(() => {});
    plots.length.under = () => { if (band) plots.length.band(...band); };
    plots.length.base(() => { if (!live) plots.length.line((n) => lengths[n], until, { colour: "ink" }); });
    plots.cloud.base(() => {});
    for (const name of DRAWN) plots[name].base(() => { if (!live) curves(name, until); });
    place();
    paint(true);
  }

  const gone = () => now.n >= record.from;

  function scape() {
    const { curve, at, cloud: measured } = system.landscape(record, lengths, now.n, spring);
    const plot = plots.energy, [a, b] = plot.x, values = [];
    for (let i = 0; i <= 40; i++) values.push(curve(a + ((b - a) * i) / 40));
    const bottom = Math.min(...values), top = Math.max(...values) - bottom;
    // an axis that moves in steps, so that it can be read
    const goal = 2 ** Math.ceil(Math.log2(top * 1.05));
    if (plot.y[1] !== goal || !plot.drawn) {
      plot.y = [-0.08 * goal, goal];
      plot.drawn = plot.base(() => {});
    }
    const y = (v) => curve(v) - bottom;
    plot.frame(() => {
      const newest = measured(seen[seen.length - 1]);
      plot.pale(gone(), () => plot.curve(y));
      plot.rings([[newest, y(newest)]]);
      plot.pale(gone(), () => plot.ball(at, y(at)));
    });
  }

  function paint(whole = false) {
    const n = now.n, t = n / 100, live = mode === "hand";
    if (whole) plots.energy.drawn = false;
    plots.thing.frame(() => system.drawThing(plots.thing, cloud, record, lengths, n, value, gone()));
    plots.length.frame(() => {
      if (live) plots.length.line((m) => lengths[m], n, { colour: "ink" });
      plots.length.now(t);
    });
    plots.cloud.frame(() => system.drawCloud(plots.cloud, cloud, record, n, gone()));
    for (const name of DRAWN) {
      const many = ["mean", "alpha"].includes(name) && system.springs > 1, of = ["loop", "miss"].includes(name) ? "force" : name; // rings of ten springs
      plots[name].frame(() => {
        if (live) curves(name, n);
        const shown = seen.filter((s) => s[of] !== undefined && !(many && s.n % 30));
        const at = (s) => (name === "loop" ? lengths[s.n] : s.n / 100);
        const values = (s) => (name === "miss" ? [s.force - told(s.n).middle] : [s[of]].flat());
        plots[name].rings(shown.flatMap((s) => values(s).map((v) => [at(s), v])));
        if (name === "loop") plots.loop.pale(gone(), () => plots.loop.ball(lengths[n], record.force[n]));
        else plots[name].now(t);
      });
    }
    scape();
    tell(live ? n : STEPS);
    reading.time.textContent = t.toFixed(2);
    reading["pulled end"].textContent = short(lengths[n]);
    const band = bands && banded(n)[n];
    reading.force.textContent = band ? `${band.middle.toFixed(4)} \u00b1 ${band.away.toPrecision(2)}` : short(record.force[n]);
    reading.dissipation.textContent = short(record.dissipation[n]);
    frames.show(reading["frames a second"]);
  }

  // the badge: from where a path that is shown lies beyond the data, and by what
  function tell(until) {
    const left = (rival ? records : [record]).flatMap(({ from, why }, i) => {
      const whose = rival ? [content.label, content.rival.label][i] : "";
      return from > until ? [] : `${whose} from time ${(from / 100).toFixed(2)} (${why})`.trim();
    });
    const said = left.length ? `beyond the data: ${left.join(", ")}` : "";
    if (badge.textContent !== said) badge.textContent = said;
  }

  // what a test, or a curious reader at the console, may ask
  root.ibvonns = {
    get lengths() { return Array.from(lengths); },
    get record() { return record; },
    get records() { return records; },
    get bands() { return bands && banded(records[0].force.length - 1); },
    get seen() { return seen; },
    get step() { return now.n; },
    get rate() { return Number(reading["frames a second"].textContent); },
    get values() { return protocol.values; },
    get plots() { return plots; },
    get ends() { return ends(cloud); },
    advance,
    draw(to) {
      select("draw");
      knots = to.map(within);
      renew(through(knots));
    },
    content,
  };

  lengths = new Float64Array(STEPS + 1);
  select(mode);
  const unwatch = watch(host, layout);
  return () => { playing = false; unwatch(); };
}

export default { render, SYSTEMS };
