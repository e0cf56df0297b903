# mypy: ignore-errors
"""Make `goldens.safetensors`, the numbers that a redesign of the library must give again.

It ran with the library of commit 0241c12, whose modules are no more; `test_goldens` compares.
Everything is float64, on one thread, and by the reference engine: in `training` the names `rollout`
and `chain_rollout` are replaced by ones that pass "reference" for "single", and `predict` is told
so, too. Models are untrained: weights drawn from the seeds [0, 1] (the first axis of most entries),
`set_scales(data)`, then `freeze(data)`.

**Data.** Trap: `observe(Trap().simulate_paper(realisations=50).select(slice(None, None, 2)))`,
the paper's 21 velocities, every second kept: 11 conditions, 301 times, grid of 256. Chain:
`observe_chain(Chain().simulate_paper(lengths=LENGTHS[::4], realisations=20, seed=0))`: 5
conditions, 301 times, 10 springs, grid of 160. Of these `<system>.data.*` keep a few numbers, so
that a difference in the simulation is told from one in the model.

**Random states.** `draw(seed, *shape)` is `torch.randn(*shape, generator=Generator().
manual_seed(seed), dtype=float64)`.

**a. Trap**, `trap1.` and `trap2.` with internal = 1 and 2 (n below), `TrapModel([0, 1], n)`:

- `position`, `control`, `energy_scale`, `rate_scale`, `reference`: buffers of encoder (and decoder)
  and potentials; `offset`, `scale`: gauge of the encoder.
- `encodings`: `encode(data)[:, ::3, ::100]`, shape (2, 4, 4, n).
- `chi` (7, 1) = mean + 2 deviation draw(1, 7, 1) of `control`; `alpha` (2, 7, n) = 2 draw(2, ...);
  `g` (2, 7, n) = 2 energy_scale draw(3, ...): stored inputs.
- `free_energy` (2, 7) of (chi, alpha); `force` (2, 7, 1) and `g_state` (2, 7, n): both results of
  `forces(chi, alpha)`; `rates` (2, 7, n), `dual_dissipation` (2, 7): of (alpha, g).
- `nll` (2,): mean of `gaussian_nll` of the decoder at all encoded states of the data.
- `prediction_alpha` (2, 4, 11, n), `prediction_force` (2, 4, 11): `rollout` by the reference from
  `encode(data)[:, :, 0]` over all 300 steps, then `external_force`; [:, ::3, ::30].
- `terms_window<w>` (3, 2), w = 0, 1, 6, 25, for trap1 only: `loss_terms(model, data, w, [0, 40,
  111])`; `terms_window6_held`: the same with `held=model.standardised(data)`.

**b. Chain**, `mixture1.`, `flow1.`, `flow0.`, `flow2.`: `ChainModel([0, 1], decoder, 2, n)`:

- `position`, `strain_scale`, `force_scale`, `velocity_scale`, `offset`, `scale`: buffers.
- `encodings`: `encode(data)[:, ::2, ::100, ::3]`, (2, 3, 4, 4, n); not stored for n = 0.
- `nll` (2,): `nll(data.density, strain, alpha)` of all rows, alpha as encoded.
- `drift` (2,): `drift(rows)` of the rows of times [::100].
- `terms_window<w>_step<s>` (5, 2), w = 0, 1, 6, 25, s = 0, 1, 3: `loss_terms(model, data, w, [0,
  40, 111], None, s)`; `terms_window6_step1_held`, `terms_window25_step<s>_held` with
  `held=model.standardised(data)`.
- `<boundary>_strain` (2, 3, 11, 4), `<boundary>_alpha` (with one more axis; not for n = 0),
  `<boundary>_end` (2, 3, 11), boundary = force, velocity: `predict(data.mean[:, 0],
  encode(data)[:, :, 0], times, known, boundary, "reference")`, known = external_force or velocity;
  [:, ::2, ::30] and springs [::3]. end is v_n or F_ex.

**c. Law of the chain**, `law<n>_<springs>.`, n = 0, 1, 2, springs = 2, 10, 50:
`ChainPotentials(generators([0, 1]), internal=n)`, `set_scales((1.0, 0.8), 0.013, 0.021)`, m = 3
trajectories:

- `strain` (2, m, springs) = 1 + 0.7 draw(1, ...), `alpha` (2, m, springs, n) = draw(2, ...),
  `force` (m,) = 0.02 draw(3, m), `velocity` (m,) = 0.03 draw(4, m): inputs, stored but for
  strain and alpha of 50 springs, and for alpha with n = 0. `g_v` = 0.02 draw(5, ...) in the shape
  of strain and `g_alpha` = energy_scale draw(6, ...) in that of alpha are not stored.
- `force_given`, `velocity_given`, `both_given`: results `_strain` (rate of strain), `_alpha` (of
  alpha), `_end` (2, m): v_n, F_ex, the law's own v_n. `free_energy`, `tension` and `g_state` (both
  results of `slopes`), `dual_dissipation` of (strain, alpha, g_v, g_alpha).
- Of 50 springs, all entries with an axis of springs keep those with the numbers SOME.

An entry of 0 numbers is never stored.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Generator, Tensor

from ibvonns import training
from ibvonns.chain_model import ChainModel, observe_chain
from ibvonns.decoders import gaussian_nll
from ibvonns.ensemble import Density, save_tensors
from ibvonns.model import TrapModel, observe
from ibvonns.networks import generators
from ibvonns.onsager import ChainPotentials
from ibvonns.rollout import chain_rollout, rollout
from ibvonns.systems.chain import LENGTHS, Chain
from ibvonns.systems.trap import Trap

FILE = Path(__file__).with_name("goldens.safetensors")
SEEDS = [0, 1]
STARTS = [0, 40, 111]
WINDOWS = (0, 1, 6, 25)
SOME = [0, 1, 2, 17, 25, 40, 48, 49]
Entries = dict[str, Tensor]


def draw(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def trap_entries() -> Entries:
    """Part a."""
    data = observe(Trap().simulate_paper(realisations=50).select(slice(None, None, 2)))
    found = {
        "trap.data.mean": data.mean[::3, ::100],
        "trap.data.external_force": data.external_force[::3, ::100],
        "trap.data.grid": data.density.grid[[0, -1]],
    }
    starts = torch.tensor(STARTS)
    for internal in (1, 2):
        model = TrapModel(SEEDS, internal)
        model.set_scales(data)
        model.freeze(data)
        law, encoded = model.potentials, model.encode(data)
        mean, deviation = law.control
        chi = mean + 2 * deviation * draw(1, 7, 1)
        alpha = 2 * draw(2, 2, 7, internal)
        g = 2 * law.energy_scale * draw(3, 2, 7, internal)
        force, g_state = law.forces(chi, alpha)
        middle, width = model.decoder(encoded.flatten(1, 2))
        nll = gaussian_nll(middle, width, data.mean.flatten(), data.variance.flatten()).mean(1)
        path = rollout(law, data.controls, encoded[:, :, 0], data.times, "reference")
        here = {
            "position": model.encoder.position,
            "control": law.control,
            "energy_scale": law.energy_scale,
            "rate_scale": law.rate_scale,
            "reference": law.reference,
            "offset": model.encoder.offset,
            "scale": model.encoder.scale,
            "encodings": encoded[:, ::3, ::100],
            "chi": chi,
            "alpha": alpha,
            "g": g,
            "free_energy": law.free_energy(chi, alpha),
            "force": force,
            "g_state": g_state,
            "rates": law.rates(alpha, g),
            "dual_dissipation": law.dual_dissipation(alpha, g),
            "nll": nll,
            "prediction_alpha": path[:, ::3, ::30],
            "prediction_force": model.external_force(data.controls, path)[:, ::3, ::30],
        }
        if internal == 1:
            for window in WINDOWS:
                here[f"terms_window{window}"] = training.loss_terms(model, data, window, starts)
            held = model.standardised(data)
            here["terms_window6_held"] = training.loss_terms(model, data, 6, starts, held)
        found |= {f"trap{internal}.{name}": value for name, value in here.items()}
    return found


def chain_entries() -> Entries:
    """Part b."""
    chain = Chain().simulate_paper(lengths=LENGTHS[::4], realisations=20, seed=0)
    data = observe_chain(chain)
    found = {
        "chain.data.mean": data.mean[::2, ::100, ::3],
        "chain.data.external_force": data.external_force[::2, ::100],
        "chain.data.velocity": data.velocity[::2, ::100],
        "chain.data.grid": data.density.grid[[0, -1]],
    }
    starts = torch.tensor(STARTS)
    for decoder, internal in (("mixture", 1), ("flow", 1), ("flow", 0), ("flow", 2)):
        model = ChainModel(SEEDS, decoder, 2, internal)
        model.set_scales(data)
        model.freeze(data)
        law, alpha = model.potentials, model.encode(data)
        here = {
            "position": model.encoder.position,
            "strain_scale": law.strain_scale,
            "force_scale": law.force_scale,
            "velocity_scale": law.velocity_scale,
            "offset": model.encoder.offset,
            "scale": model.encoder.scale,
            "encodings": alpha[:, ::2, ::100, ::3],
            "nll": model.nll(data.density, data.mean.flatten(), alpha.flatten(1, 3)),
            "drift": model.drift(Density(data.density.grid, data.density.weights[:, ::100])),
        }
        held = model.standardised(data)
        for step in (0, 1, 3):
            for window in WINDOWS:
                terms = training.loss_terms(model, data, window, starts, None, step)
                here[f"terms_window{window}_step{step}"] = terms
            terms = training.loss_terms(model, data, 25, starts, held, step)
            here[f"terms_window25_step{step}_held"] = terms
        terms = training.loss_terms(model, data, 6, starts, held, 1)
        here["terms_window6_step1_held"] = terms
        for boundary, known in (("force", data.external_force), ("velocity", data.velocity)):
            begin = data.mean[:, 0], alpha[:, :, 0], data.times
            path, inner, end = model.predict(*begin, known, boundary, "reference")
            here[f"{boundary}_strain"] = path[:, ::2, ::30, ::3]
            here[f"{boundary}_alpha"] = inner[:, ::2, ::30, ::3]
            here[f"{boundary}_end"] = end[:, ::2, ::30]
        found |= {f"{decoder}{internal}.{name}": value for name, value in here.items()}
    return found


def law_entries() -> Entries:
    """Part c."""
    found: Entries = {}
    for internal in (0, 1, 2):
        law = ChainPotentials(generators(SEEDS), internal=internal)
        law.set_scales((1.0, 0.8), 0.013, 0.021)
        for springs in (2, 10, 50):
            shape = (2, 3, springs)
            strain, alpha = 1 + 0.7 * draw(1, *shape), draw(2, *shape, internal)
            force, velocity = 0.02 * draw(3, 3), 0.03 * draw(4, 3)
            g_v, g_alpha = 0.02 * draw(5, *shape), law.energy_scale * draw(6, *shape, internal)
            some: Any = SOME if springs == 50 else slice(None)
            here = {} if springs == 50 else {"strain": strain, "alpha": alpha}
            here |= {"force": force, "velocity": velocity}
            results = {
                "force_given": law.force_given(strain, alpha, force),
                "velocity_given": law.velocity_given(strain, alpha, velocity),
                "both_given": law.both_given(strain, alpha, force, velocity),
            }
            for name, (stretch, change, end) in results.items():
                here[f"{name}_strain"] = stretch[:, :, some]
                here[f"{name}_alpha"] = change[:, :, some]
                here[f"{name}_end"] = end
            tension, g_state = law.slopes(strain, alpha)
            here["free_energy"] = law.free_energy(strain, alpha)[:, :, some]
            here["tension"], here["g_state"] = tension[:, :, some], g_state[:, :, some]
            dual = law.dual_dissipation(strain, alpha, g_v, g_alpha)
            here["dual_dissipation"] = dual[:, :, some]
            found |= {f"law{internal}_{springs}.{name}": value for name, value in here.items()}
    return found


def _by_reference(engine: Any) -> Any:
    """The engine with its last argument, "single", replaced."""
    return lambda *inputs: engine(*inputs[:-1], "reference")


def made() -> Entries:
    """All entries by name."""
    engines: dict[str, Any] = {"rollout": rollout, "chain_rollout": chain_rollout}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), ExitStack() as stack:
            for name, engine in engines.items():
                stack.enter_context(mock.patch.object(training, name, _by_reference(engine)))
            found = trap_entries() | chain_entries() | law_entries()
    finally:
        torch.set_num_threads(threads)
    return {name: value.detach().clone() for name, value in found.items() if value.numel()}


if __name__ == "__main__":
    entries = made()
    assert all(value.dtype == torch.float64 and value.isfinite().all() for value in entries.values())
    save_tensors(FILE, entries)
    print(f"{FILE}: {len(entries)} entries, {FILE.stat().st_size} bytes")
