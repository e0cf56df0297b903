// A learned law beside simulated particles, in the reader's browser.
//
// `content` comes from ibvonns/show/panels.py. The first half is arithmetic: the networks of
// ibvonns/networks.py, the potentials of law.py, the rollouts of rollout.py, and the particles of
// systems/, in the same order of operations. The second half draws. Nothing is loaded.

const STEPS = 300;
const DT = (n) => (n + 1) / 100 - n / 100; // as torch.diff of the paper's times
const PACE = 50; // steps a second

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
  const { energy, friction, scaled, bounded, unit, force, clock } = lawOf(law);
  const zero = energy.value(T["law.reference"][0]);
  const decode = mlp(T, "decoder.network"), encode = encoder(law);
  const [[centre], [spread]] = T["decoder.position"] || [[0], [1]]; // a law that makes a band is not decoded
  const drawn = "decoder.position" in T;
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
    begin: (value) => ({ alpha: [starting(content, value).alpha], mean: [], force: [], dissipation: [] }),
    // what is seen at step n
    observe(record, lengths, n) {
      const alpha = record.alpha[n][0], here = law_at(lengths[n], alpha);
      record.mean[n] = drawn ? [this.density(alpha)[0]] : [];
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
      length: { title: "pulled length λ", y: axes.length, wide: true },
      cloud: { title: "density of the position", x: axes.position, against: "position x", y: [0, 0.55 / Math.sqrt(temperature / (2 * k))], wide: true },
      mean: { title: "mean position ⟨x⟩", y: axes.position },
      alpha: { title: "internal variable α", y: axes.alpha },
      force: { title: "external force F", y: axes.force },
      ...(content.bands && { miss: { title: "F less its mean, and the band", y: [-0.02, 0.02] } }),
      energy: { title: "free energy f", x: axes.alpha, against: "internal variable α" },
      dissipation: { title: "dissipation", y: axes.dissipation },
    },
    time: "time",
    springs: 1,
    landscape(record, lengths, n) {
      const f = (alpha) => unit * (energy.value(scaled(lengths[n], [alpha])) - zero);
      return { curve: f, at: record.alpha[n][0], cloud: (seen) => seen.alpha[0] };
    },
    drawCloud(plot, cloud, record, n) {
      const [mean, deviation] = this.density(record.alpha[n][0]);
      const bins = 48, [low, high] = plot.x, size = (high - low) / bins;
      const counts = new Array(bins).fill(0);
      for (const x of cloud.x) {
        const bin = Math.floor((x - low) / size);
        if (bin >= 0 && bin < bins) counts[bin] += 1;
      }
      plot.bars(counts.map((c, i) => [low + i * size, size, c / (cloud.x.length * size)]));
      plot.curve((x) => Math.exp(-(((x - mean) / deviation) ** 2) / 2) / (deviation * Math.sqrt(2 * Math.PI)));
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
  const { energy, friction, scaled, bounded, unit, force, rate: speed, clock, spacing } = lawOf(law);
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
      return { alpha: [fill(alpha[0])], inner: [fill(alpha)], mean: [fill(mean)], force: [], dissipation: [] };
    },
    observe(record, lengths, n) {
      const { guess } = record.found || { guess: 0 };
      record.found = Object.assign(springsAt(record.mean[n], record.inner[n]), { guess });
      const here = law_at(record.found, velocity(lengths, n)); // entry n belongs to the state at n
      record.force[n] = here.force;
      record.dissipation[n] = here.power;
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
      length: { title: "displacement λ of the end", y: axes.length, wide: true },
      ...(rival && { loop: { title: "force F against pull λ", x: axes.length, against: "displacement λ", y: axes.force } }),
      cloud: { title: "strain", x: [0.4, springs + 0.6], against: "spring", y: [-1, 5], whole: true, wide: !rival },
      mean: { title: "mean strains ε", y: axes.position },
      alpha: { title: `internal variables α${many ? "\u2081" : ""}`, y: axes.alpha },
      force: { title: "external force F", y: axes.force },
      energy: { title: "free energy f (in kT)", x: axes.position, against: "strain ε" },
      dissipation: { title: "dissipation", y: axes.dissipation },
    },
    time: "time",
    springs,
    rest: springs * L0,
    landscape(record, lengths, n, spring) {
      const alpha = record.inner[n][spring];
      const f = (strain) => (unit * energy.value(scaled(strain, alpha))) / temperature;
      return { curve: f, at: record.mean[n][spring], cloud: (seen) => seen.mean[spring] };
    },
    drawCloud(plot, cloud, record, n) {
      for (let i = 0; i < springs; i++) {
        const density = decode && decode(record.mean[n][i], record.inner[n][i]);
        plot.specks(cloud.jitter.map((j) => i + 1 + j), cloud.x[i]);
        if (density) plot.violin(i + 1, (x) => Math.min(0.6 * density(x), 0.47));
      }
      record.mean[n].forEach((e, i) => plot.dash(i + 1, e));
    },
  };
}

const SYSTEMS = { trap: trapSystem, chain: chainSystem };

// --- drawing -------------------------------------------------------------------------------

const MARGIN = { left: 40, right: 8, top: 6, bottom: 32 };

const short = (x) => String(Number(x.toPrecision(3))).replace("-", "\u2212");

function ticks(low, high, most) {
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found;
}

// one canvas with axes; what rarely changes is drawn once (`base`), the rest on top of it
function plotOf(root, host, { title, x = [0, 3], against, y, whole = false, wide = false }, time) {
  const figure = document.createElement("figure"), name = document.createElement("p");
  const area = document.createElement("div"), canvas = document.createElement("canvas");
  figure.className = wide ? "ibv-plot ibv-wide" : "ibv-plot";
  area.className = "ibv-area";
  name.textContent = title;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${title}, against ${against || time}`);
  area.append(canvas);
  figure.append(name, area);
  host.append(figure);
  const base = document.createElement("canvas");
  const plot = { figure, area, canvas, x, y, colours: {} };
  let ctx = canvas.getContext("2d"), w = 0, h = 0, ratio = 1;

  plot.X = (v) => MARGIN.left + ((v - plot.x[0]) / (plot.x[1] - plot.x[0])) * (w - MARGIN.left - MARGIN.right);
  plot.Y = (v) => h - MARGIN.bottom - ((v - plot.y[0]) / (plot.y[1] - plot.y[0])) * (h - MARGIN.top - MARGIN.bottom);
  plot.unX = (p) => plot.x[0] + ((p - MARGIN.left) / (w - MARGIN.left - MARGIN.right)) * (plot.x[1] - plot.x[0]);
  plot.unY = (p) => plot.y[0] + ((h - MARGIN.bottom - p) / (h - MARGIN.top - MARGIN.bottom)) * (plot.y[1] - plot.y[0]);

  const clipped = (draw) => {
    ctx.save();
    ctx.beginPath();
    ctx.rect(MARGIN.left, MARGIN.top - 2, w - MARGIN.left - MARGIN.right, h - MARGIN.top - MARGIN.bottom + 4);
    ctx.clip();
    draw();
    ctx.restore();
  };
  const stroke = (colour, width, dash = []) => {
    ctx.strokeStyle = colour;
    ctx.lineWidth = width;
    ctx.setLineDash(dash);
    ctx.stroke();
    ctx.setLineDash([]);
  };

  const time_of = (n) => n / 100;
  plot.line = (values, last, { width = 1.6, dash = [], shade = 1, colour = "law", at = time_of } = {}) => clipped(() => {
    ctx.globalAlpha = shade;
    ctx.beginPath();
    for (let n = 0; n <= last; n++) ctx.lineTo(plot.X(at(n)), plot.Y(values(n)));
    stroke(plot.colours[colour], width, dash);
  });
  plot.band = (low, high) => {
    ctx.fillStyle = plot.colours.fill;
    ctx.fillRect(MARGIN.left, plot.Y(high), w - MARGIN.left - MARGIN.right, plot.Y(low) - plot.Y(high));
  };
  // between two curves; faint where the last says so
  plot.between = (low, high, last, faint) => clipped(() => {
    ctx.fillStyle = plot.colours.law;
    for (let n = 0; n < last; n++) {
      ctx.globalAlpha = faint(n) ? 0.1 : 0.28;
      ctx.beginPath();
      for (const [m, f] of [[n, low], [n + 1, low], [n + 1, high], [n, high]]) ctx.lineTo(plot.X(time_of(m)), plot.Y(f(m)));
      ctx.fill();
    }
    ctx.globalAlpha = 1;
  });
  plot.curve = (f) => clipped(() => {
    ctx.beginPath();
    for (let p = MARGIN.left; p <= w - MARGIN.right; p += 2) ctx.lineTo(p, plot.Y(f(plot.unX(p))));
    stroke(plot.colours.law, 1.8);
  });
  plot.violin = (at, f) => {
    ctx.beginPath();
    for (const side of [-1, 1]) {
      let open = false; // a pen up where there is next to nothing
      for (let p = MARGIN.top; p <= h - MARGIN.bottom; p += 2) {
        const wide = f(plot.unY(p));
        if (wide > 0.005) ctx[open ? "lineTo" : "moveTo"](plot.X(at + side * wide), p);
        open = wide > 0.005;
      }
    }
    stroke(plot.colours.law, 1.3);
  };
  plot.bars = (bars) => clipped(() => {
    ctx.fillStyle = plot.colours.cloud;
    ctx.globalAlpha = 0.35;
    for (const [left, size, high] of bars) {
      if (high) ctx.fillRect(plot.X(left), plot.Y(high), plot.X(left + size) - plot.X(left), plot.Y(0) - plot.Y(high));
    }
    ctx.globalAlpha = 1;
  });
  plot.specks = (xs, ys) => clipped(() => {
    ctx.fillStyle = plot.colours.cloud;
    ctx.globalAlpha = 0.6;
    for (let i = 0; i < xs.length; i++) ctx.fillRect(plot.X(xs[i]) - 1, plot.Y(ys[i]) - 1, 2, 2);
    ctx.globalAlpha = 1;
  });
  plot.rings = (points) => clipped(() => {
    ctx.beginPath();
    for (const [a, b] of points) {
      ctx.moveTo(plot.X(a) + 2.6, plot.Y(b));
      ctx.arc(plot.X(a), plot.Y(b), 2.6, 0, 2 * Math.PI);
    }
    stroke(plot.colours.cloud, 1.2);
  });
  plot.ball = (a, b) => clipped(() => {
    ctx.fillStyle = plot.colours.law;
    ctx.beginPath();
    ctx.arc(plot.X(a), plot.Y(b), 5, 0, 2 * Math.PI);
    ctx.fill();
  });
  plot.dash = (a, b) => clipped(() => {
    ctx.beginPath();
    ctx.moveTo(plot.X(a - 0.42), plot.Y(b));
    ctx.lineTo(plot.X(a + 0.42), plot.Y(b));
    stroke(plot.colours.ink, 1.6);
  });
  plot.now = (t) => {
    ctx.beginPath();
    ctx.moveTo(plot.X(t), MARGIN.top);
    ctx.lineTo(plot.X(t), h - MARGIN.bottom);
    stroke(plot.colours.faint, 1, [3, 3]);
  };

  // axes, and then what the caller draws; false where there is no room
  plot.base = (draw) => {
    [w, h] = [area.clientWidth, area.clientHeight];
    if (!w || !h) return false;
    ratio = Math.min(window.devicePixelRatio || 1, 2);
    for (const each of [canvas, base]) [each.width, each.height] = [Math.round(w * ratio), Math.round(h * ratio)];
    const style = getComputedStyle(root);
    for (const key of ["ink", "faint", "grid", "law", "cloud", "fill", "ground"]) {
      plot.colours[key] = style.getPropertyValue(`--ibv-${key}`).trim();
    }
    ctx = base.getContext("2d");
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, w, h);
    if (plot.under) plot.under();
    ctx.font = "11px system-ui, sans-serif";
    ctx.lineWidth = 1;
    ctx.textAlign = "center";
    ctx.textBaseline = "top";
    const along = whole ? Array.from({ length: 10 }, (_, i) => i + 1) : ticks(...plot.x, 5);
    for (const v of along) {
      ctx.beginPath();
      ctx.moveTo(plot.X(v), MARGIN.top);
      ctx.lineTo(plot.X(v), h - MARGIN.bottom);
      if (!whole) stroke(plot.colours.grid, 1);
      ctx.fillStyle = plot.colours.ink;
      ctx.fillText(short(v), Math.min(plot.X(v), w - 8), h - MARGIN.bottom + 4);
    }
    ctx.textAlign = "right";
    ctx.fillText(against || time, w - MARGIN.right, h - 13);
    ctx.textBaseline = "middle";
    for (const v of ticks(...plot.y, 4)) {
      ctx.beginPath();
      ctx.moveTo(MARGIN.left, plot.Y(v));
      ctx.lineTo(w - MARGIN.right, plot.Y(v));
      stroke(plot.colours.grid, 1);
      ctx.fillStyle = plot.colours.ink;
      ctx.fillText(short(v), MARGIN.left - 4, plot.Y(v));
    }
    draw();
    ctx = canvas.getContext("2d");
    return true;
  };
  plot.frame = (draw) => {
    if (!w) return;
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.clearRect(0, 0, canvas.width, canvas.height);
    ctx.drawImage(base, 0, 0);
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw();
  };
  return plot;
}

// --- the panel -----------------------------------------------------------------------------

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

const HELP = {
  trap: ({ bands }) => "Lines and filled dots: the learned law. Rings, bars and specks: the particles. Grey band: pulled " +
    "lengths that occurred in training; beyond it the law guesses." +
    (bands ? ` The force is the mean of ${bands.laws.length} laws of resampled data, in a band that should hold ` +
      `${Math.round(100 * bands.share)} % of the truth; a plot of its own shows it large. It is faint from where the path has left the data.` : ""),
  chain: ({ law, rival, label = "the learned law", trained }) =>
    `Lines, ${law.architecture.decoder === "mixture" ? "outlines (the decoded density)" : "strokes (the mean strain)"} ` +
    `and the filled dot: ${label}. Rings and specks: 200 simulated chains. The farther a spring from the wall, the darker its line.` +
    (law.architecture.internal > 1 ? " Of the internal variables the first is drawn." : "") +
    (rival ? ` Dashed: ${rival.label}; among the strains that of the chosen spring alone.` : "") +
    (trained ? " Grey band: displacements that occurred in training; beyond it the law guesses." : ""),
};
const KEYS = "Draw: drag over the first plot, or tab to its handles: left and right choose a time, up and down move it. " +
  "By hand: press play, then drag the slider or use the arrow keys. Everything runs in this page.";

function render({ model, el }) {
  const content = model.get("content"), system = SYSTEMS[content.kind](content), now = { n: 0 };
  const [low, high] = system.plots.length.y, { rival, others = [] } = system, { bands } = content;
  const laws = rival ? [system, rival] : [system, ...others];
  let lengths, record, records, cloud, seen, seed = 1, playing = false, handle = 0, clock = null;
  let protocol = content.protocols[0], value = protocol.values[0], mode = protocol.name, spring = system.springs - 1;
  let knots = new Array(KNOTS).fill(0), frames = [];

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
  const whichLabel = element("label", {}, rival ? "free energy and dashes of" : "free energy of", which);
  const spoken = element("p", { class: "ibv-spoken", "aria-live": "polite" });
  const host = element("div", { class: "ibv-plots" });
  const readout = element("dl");
  const reading = {};
  for (const name of ["time", "pulled end", "force", ...(bands ? ["the data"] : []), "dissipation", "frames a second"]) {
    reading[name] = element("dd", {}, "\u2013");
    readout.append(element("div", {}, element("dt", {}, name), reading[name]));
  }
  const key = element("p", { class: "ibv-key" }, element("i", {}, `\u2014 ${content.label || "learned law"}`),
    ...(rival ? [` \u00a0 - - ${content.rival.label}`] : []), " \u00a0 ", element("b", {}, "\u25cb particles"),
    " \u00a0 All axes are dimensionless.");
  root.append(
    element("div", { class: "ibv-row", role: "group", "aria-label": "Protocol" }, ...buttons.values()),
    element("div", { class: "ibv-row" }, play, reset, dialLabel, handLabel, ...(system.springs > 1 ? [whichLabel] : []), key),
    host, readout, spoken,
    element("details", {}, element("summary", {}, "How to read and steer it"),
      element("p", {}, HELP[content.kind](content)), element("p", {}, KEYS)),
  );
  el.replaceChildren(root);
  const plots = {};
  for (const [name, about] of Object.entries(system.plots)) plots[name] = plotOf(root, host, { ...about, y: about.y || [0, 1] }, system.time);

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

  // dragging sets every knot that the pointer passes; the first is where the system rests
  let last = null, due = 0;
  const canvas = plots.length.area;
  const reach = (event) => {
    const box = canvas.getBoundingClientRect();
    const at = (plots.length.unX(event.clientX - box.left) / 3) * (KNOTS - 1);
    const here = { k: Math.min(Math.max(Math.round(at), 1), KNOTS - 1), v: plots.length.unY(event.clientY - box.top) };
    const from = last || here, reachTo = Math.max(Math.abs(here.k - from.k), 1);
    for (let i = 0; i <= reachTo; i++) {
      const k = Math.round(from.k + ((here.k - from.k) * i) / reachTo);
      knots[k] = within(from.v + ((here.v - from.v) * i) / reachTo);
    }
    last = here;
    if (!due) due = requestAnimationFrame(() => { due = 0; renew(through(knots)); }); // once a frame
  };
  canvas.classList.add("ibv-draw");
  canvas.addEventListener("pointerdown", (event) => {
    pause();
    if (mode !== "draw") select("draw");
    canvas.setPointerCapture(event.pointerId);
    last = null;
    reach(event);
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => { if (canvas.hasPointerCapture(event.pointerId)) reach(event); });
  canvas.addEventListener("pointerup", () => { if (mode === "draw" && !calm()) start(); });

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
    records = laws.map((each) => each.begin(value));
    [record] = records;
    laws.forEach((each, i) => each.observe(records[i], lengths, 0));
    for (let n = 0; n < STEPS && mode !== "hand"; n++) onward(n);
    restart(false);
  }

  function onward(n) {
    laws.forEach((each, i) => {
      each.move(records[i], lengths, n);
      each.observe(records[i], lengths, n + 1);
    });
  }

  function restart(again) {
    if (again) {
      seed += 1;
      if (mode === "hand") return turn();
    }
    cloud = system.cloud(value, noise(1000 * seed + 7), content.particles);
    seen = [{ n: 0, ...cloud.measure(lengths, 0) }];
    now.n = 0;
    clock = null;
    layout();
  }

  function start() {
    if (now.n >= STEPS) restart(true);
    playing = true;
    play.textContent = "Pause";
    clock = null;
    frames = [];
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
    while (now.n < until) {
      if (mode === "hand") follow(now.n);
      cloud.step(lengths, now.n);
      now.n += 1;
      if (now.n % 10 === 0) seen.push({ n: now.n, ...cloud.measure(lengths, now.n) });
    }
    // a hand may pull beyond an axis
    if (mode === "hand" && now.n % 10 === 0 && (stretched() || bands)) layout();
    frames.push(at);
    while (frames[0] < at - 1000) frames.shift();
    paint();
    if (now.n >= STEPS) {
      pause();
      spoken.textContent = "The end of the protocol is reached.";
    } else requestAnimationFrame(tick);
  }

  // the end goes where the hand is, at most at a quarter of the axis in a tenth of a time unit, and no faster
  // than the fastest of one's own protocols: there the laws are at home
  const steps = content.protocols.flatMap(({ lengths: l = [] }) => l.slice(1).map((x, n) => Math.abs(x - l[n])));
  const most = steps.length ? Math.max(...steps) : (high - low) / 40;
  function follow(n) {
    const wish = within(Number(hand.value)) - lengths[n];
    lengths[n + 1] = lengths[n] + Math.min(Math.max(0.2 * wish, -most), most);
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
    const [from, to] = system.plots[name].y, bottom = Math.min(from, ...values), top = Math.max(to, ...values);
    const room = 0.05 * (top - bottom), wanted = [bottom < from ? bottom - room : from, top > to ? top + room : to];
    const changed = wanted.some((v, i) => v !== plots[name].y[i]);
    plots[name].y = wanted;
    return changed;
  }

  const stretched = () => TIMED.map((name) => {
    const drawn = [...(name === "alpha" || (bands && name !== "force") ? [record] : records).map((each) => each[name]), seen.map((s) => s[name])];
    return fit(drawn.flat(2).filter(Number.isFinite), name);
  }).includes(true);

  // of the other law: what the first has as a line, but alpha, whose gauge is another
  const dashed = { dash: [6, 4], colour: "ink" };

  // what laws do until a step
  function curves(name, until) {
    const plot = plots[name];
    if (name === "miss") {
      const band = banded(until);
      plot.between((n) => -band[n].away, (n) => band[n].away, until, (n) => band[n].outside);
      plot.line(() => 0, until);
      return;
    }
    if (name === "loop") {
      const at = (n) => lengths[n];
      plot.line((n) => record.force[n], until, { at });
      plot.line((n) => records[1].force[n], until, { at, ...dashed });
    } else if (name === "mean" || name === "alpha") {
      for (let i = 0; i < system.springs; i++) plot.line((n) => record[name][n][i], until, { shade: shades(i) });
      if (rival && name === "mean") plot.line((n) => records[1].mean[n][spring], until, dashed);
    } else if (bands && name === "force") {
      const band = banded(until);
      plot.between((n) => band[n].middle - band[n].away, (n) => band[n].middle + band[n].away, until, (n) => band[n].outside);
      plot.line((n) => band[n].middle, until);
    } else {
      plot.line((n) => record[name][n], until);
      if (rival) plot.line((n) => records[1][name][n], until, dashed);
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
    if (content.kind === "trap") [plots.cloud.x, plots.energy.x] = [plots.mean.y, plots.alpha.y];
    else plots.energy.x = plots.mean.y;
    const shift = content.protocols[0].lengths ? value : 0; // of one's own protocols, a band of total lengths
    const band = content.trained && content.trained.map((end) => Math.min(Math.max(end - shift, low), high));
    plots.length.under = () => { if (band) plots.length.band(...band); };
    plots.length.base(() => { if (!live) plots.length.line((n) => lengths[n], until, { colour: "ink" }); });
    plots.cloud.base(() => {});
    for (const name of DRAWN) plots[name].base(() => { if (!live) curves(name, until); });
    place();
    paint(true);
  }

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
      plot.curve(y);
      const newest = measured(seen[seen.length - 1]);
      plot.rings([[newest, y(newest)]]);
      plot.ball(at, y(at));
    });
  }

  function paint(whole = false) {
    const n = now.n, t = n / 100, live = mode === "hand";
    if (whole) plots.energy.drawn = false;
    plots.length.frame(() => {
      if (live) plots.length.line((m) => lengths[m], n, { colour: "ink" });
      plots.length.now(t);
    });
    plots.cloud.frame(() => system.drawCloud(plots.cloud, cloud, record, n));
    for (const name of DRAWN) {
      const many = ["mean", "alpha"].includes(name) && system.springs > 1, of = ["loop", "miss"].includes(name) ? "force" : name; // rings of ten springs
      plots[name].frame(() => {
        if (live) curves(name, n);
        const shown = seen.filter((s) => s[of] !== undefined && !(many && s.n % 30));
        const at = (s) => (name === "loop" ? lengths[s.n] : s.n / 100);
        const values = (s) => (name === "miss" ? [s.force - told(s.n).middle] : [s[of]].flat());
        plots[name].rings(shown.flatMap((s) => values(s).map((v) => [at(s), v])));
        if (name === "loop") plots.loop.ball(lengths[n], record.force[n]);
        else plots[name].now(t);
      });
    }
    scape();
    const rate = frames.length > 10 ? ((frames.length - 1) * 1000) / (frames[frames.length - 1] - frames[0]) : null;
    reading.time.textContent = t.toFixed(2);
    reading["pulled end"].textContent = short(lengths[n]);
    const band = bands && banded(n)[n];
    reading.force.textContent = band ? `${band.middle.toFixed(4)} \u00b1 ${band.away.toPrecision(2)}` : short(record.force[n]);
    if (band) reading["the data"].textContent = band.outside ? "left" : "hold this";
    reading.dissipation.textContent = short(record.dissipation[n]);
    if (rate !== null) reading["frames a second"].textContent = rate.toFixed(0);
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
    content,
  };

  const seenSize = new ResizeObserver(() => layout());
  const themed = new MutationObserver(() => layout());
  lengths = new Float64Array(STEPS + 1);
  select(mode);
  seenSize.observe(host);
  themed.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  return () => { playing = false; seenSize.disconnect(); themed.disconnect(); };
}

export default { render, SYSTEMS };
