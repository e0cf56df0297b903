"""The live panels: their content is whole, and their script computes what Python does."""

import base64
import json
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from live_paths import CLOSE, assert_same_path, far, restored
from toys import architecture_of, frozen, seen_of

from ibvonns import Phase, Recipe, Stage, banded, observe
from ibvonns.bands import Banded
from ibvonns.model import Architecture, Model
from ibvonns.protocols import Protocol
from ibvonns.show import panels
from ibvonns.show.widgets import script
from ibvonns.systems.chain import LENGTHS, Chain
from ibvonns.systems.lattice import Lattice
from ibvonns.systems.trap import VELOCITIES, Trap, paper_times

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no node on this machine; test_live asks a browser")
MODELS = {"trap": ("point", "gaussian"), "chain": ("row", "mixture")}
# each of the paper's protocols from its first states, and the particles' first places
SCRIPT = """
import panel from "./panel.mjs";
import { readFileSync } from "fs";
const content = JSON.parse(readFileSync("content.json")), paths = [];
const system = panel.SYSTEMS[content.kind](content);
for (const { name, values } of content.protocols) for (const value of values) {
  const lengths = system.pull(name, value);
  const records = [system, system.rival, ...(system.others || [])].filter(Boolean).map((each) => {
    const run = each.begin(value);
    for (let n = 0; n <= 300; n++) { each.observe(run, lengths, n); if (n < 300) each.move(run, lengths, n); }
    return run;
  });
  const cloud = system.cloud(value, () => 0, content.particles), x = [].concat(cloud.x).map((part) => Array.from(part));
  paths.push([name, value, Array.from(lengths), x, cloud.measure(lengths, 0).inner, ...records]);
}
console.log(JSON.stringify(paths));
"""


def model_of(kind: str) -> Model:
    """Two untrained replicas with scales and gauge."""
    layout, decoder = MODELS[kind]
    return frozen(layout, (3, 4), decoder)


@cache
def content_of(kind: str) -> Any:
    """What the second replica's panel reads, by way of JSON."""
    system = Trap() if kind == "trap" else Chain()
    return json.loads(json.dumps(panels.content(model_of(kind), system, 1), allow_nan=False))


@pytest.mark.parametrize("kind", MODELS)
def test_law_in_the_content_is_the_replica(kind: str) -> None:
    model, again = model_of(kind), Model.restored(content_of(kind)["law"])
    assert again.seeds == [4] and again.architecture == model.architecture
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor[1:] if tensor.ndim == 3 else tensor), name


@pytest.mark.parametrize("kind", MODELS)
def test_each_start_is_the_equilibrium(kind: str) -> None:
    content = content_of(kind)
    low, high = content["range"]
    values = LENGTHS if kind == "chain" else VELOCITIES
    assert content["protocols"][0]["values"] == list(values)
    for value, start in zip(values, content["starts"], strict=True):
        levels = np.frombuffer(base64.b64decode(start["cloud"]), "<u2").reshape(-1, 200)
        cloud = low + (high - low) * levels / 65535
        if kind == "chain":  # each chain has the first length
            assert cloud.mean(0) == pytest.approx(np.full(200, start["mean"]), abs=1e-4)
            assert start["mean"] == pytest.approx(value / 0.1 - 1)
        else:
            assert cloud.std() == pytest.approx(Trap().equilibrium_deviation, rel=0.2)
            assert start["alpha"] == pytest.approx(content["starts"][0]["alpha"], abs=0.02)


@pytest.mark.parametrize("kind", MODELS)
def test_axes_hold_what_was_trained(kind: str) -> None:
    content = content_of(kind)
    low, high = content["axes"]["length"]
    assert low < content["trained"][0] < content["trained"][1] < high
    assert all(low < high for low, high in content["axes"].values())


def test_ranges_are_those_of_the_training_data() -> None:
    """As the script takes them: alpha's from the law, which holds a path within twice its range in the data."""
    data = seen_of("row")
    model = chained(3)
    strains, length = data.field, 0.01 * (1 + data.field[..., 0]).sum(2)
    for given in (None, OWN):
        content = panels.content(model, Chain(), data=data, protocols=given)
        assert content["strains"] == [float(strains.min()), float(strains.max())]
        ends = length if given else length - length[:, :1]
        assert content["trained"] == [float(ends.min()), float(ends.max())]
        low, high = content["law"]["tensors"]["law.reach"]
        alpha = model.encode(data).detach()
        wide = high[0] - low[0]
        assert low[0] + wide / 4 == pytest.approx(float(alpha.min()), rel=1e-6)
        assert high[0] - wide / 4 == pytest.approx(float(alpha.max()), rel=1e-6)
    paper, (low, high) = content_of("chain"), content_of("chain")["strains"]
    runs = Chain().simulate_paper(lengths=LENGTHS[::2], realisations=50)
    strains = observe(runs, spacing=0.01, points=65).mean
    assert low == pytest.approx(float(strains.min()), abs=0.1) and high == pytest.approx(float(strains.max()), abs=0.2)
    assert paper["trained"] == pytest.approx([0.0, 0.1425], abs=1e-3)
    assert content_of("trap")["strains"] is None and rivals_of(2, True)["strains"] is None
    with pytest.raises(ValueError, match="data.field must have shape"):
        panels.content(model_of("trap"), Trap(), data=data)


def test_the_particles_are_those_of_the_given_system() -> None:
    content = panels.content(model_of("trap"), Trap(stiffness=2.0))
    assert content["system"] == {"stiffness": 2.0, "viscosity": 1.0, "temperature": 0.01}


def taken(content: Any, folder: Path) -> Any:
    """What the script computes from a content, under node."""
    (folder / "panel.mjs").write_text(script("panel"), encoding="utf-8")
    (folder / "content.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "run.mjs").write_text(SCRIPT, encoding="utf-8")
    run = subprocess.run([str(NODE), "run.mjs"], cwd=folder, capture_output=True, text=True, check=True)
    paths = json.loads(run.stdout)
    assert len(paths) == sum(len(protocol["values"]) for protocol in content["protocols"])
    return paths


@needs_node
@pytest.mark.parametrize("kind", MODELS)
def test_script_takes_the_paths_that_python_predicts(kind: str, tmp_path: Path) -> None:
    content = content_of(kind)
    for name, value, lengths, cloud, _, record in taken(content, tmp_path):
        assert_same_path(content, name, value, lengths, record)
        assert len(np.ravel(cloud)) == 200 * len(record["mean"][0])


OWN = {  # two of them begin at the same length
    "Pull": Protocol("pull", 0.03, 0.15, (1.0,)),
    "Two cycles": Protocol("cycle", 0.1, 0.15, (1.5,)),
    "Wander": Protocol("random", 0.1, 0.2, (3.0,), 4),
}


def chained(seed: int, **more: Any) -> Model:
    """An untrained chain with a flow, its scales and its gauge; further internal variables soon meet their bounds."""
    model = Model([seed], replace(architecture_of("row"), **more))
    model.set_scales(seen_of("row"))
    model.freeze(seen_of("row"))
    model.law.reach[..., 1:] = torch.tensor([[-0.1], [0.1]], dtype=torch.float64)
    return model


@cache
def rivals_of(internal: int, neighbours: bool) -> Any:
    """A law of its own kind beside that of chapter 9, each with a reference, pulled otherwise than in the paper."""
    new = chained(3, internal=internal, neighbours=neighbours, reference=0.3)
    content = panels.content(
        new, Chain(), rival=chained(5), protocols=OWN, labels=("new law", "law of chapter 9"), trained=(0.12, 0.42)
    )
    return json.loads(json.dumps(content, allow_nan=False))


@needs_node
@pytest.mark.parametrize(("internal", "neighbours"), [(2, True), (1, True), (3, False)])
def test_two_laws_take_the_paths_that_python_predicts(internal: int, neighbours: bool, tmp_path: Path) -> None:
    content = rivals_of(internal, neighbours)
    encoder = restored(content["law"]).encoder
    paths = taken(content, tmp_path)
    for name, value, lengths, cloud, inner, record, other in paths:
        assert_same_path(content, name, value, lengths, record)
        assert_same_path({**content, **content["rival"]}, name, value, lengths, other)
        assert len(record["inner"][0][0]) == internal and len(other["inner"][0][0]) == 1
        assert far(inner, encoder.encode(torch.tensor(cloud, dtype=torch.float64)).detach()[0]) < CLOSE
        assert far(other["force"], torch.tensor(record["force"])) > 0.01
    assert far(paths[0][5]["force"], torch.tensor(paths[1][5]["force"])) > 0.01


@cache
def banded_of() -> tuple[Banded, Any]:
    """Six laws of a trap that have hardly been trained, with all that `fit` gives a point."""
    few = Trap().simulate_paper(velocities=VELOCITIES[::4], realisations=40)
    weights = {"density": 0.01, "internal": 1.0, "end": 100.0}
    short = Recipe((Stage((Phase(0, 20), Phase(1, 40)), weights),), attempts=0)
    bands = banded(few, "pulled_length", recipe=short, decoder="gaussian", steps="euler", check=False)
    content = panels.content(bands.laws[0].model, Trap(), bands=bands)
    return bands, json.loads(json.dumps(content, allow_nan=False))


@needs_node
def test_laws_of_a_band_take_the_paths_that_python_predicts(tmp_path: Path) -> None:
    bands, content = banded_of()
    told = content["bands"]["laws"]
    assert len(told) == 6 and "cubes" in content["law"]["architecture"]
    for name, value, lengths, _, _, *records in taken(content, tmp_path):
        assert_same_path(content, name, value, lengths, records[0])
        assert len(records) == 6
        for one, law, record in zip(told[1:], bands.laws[1:], records[1:], strict=True):
            path, times = torch.tensor([lengths], dtype=torch.float64), paper_times()
            place = list(dict.fromkeys(v for p in content["protocols"] for v in p["values"])).index(value)
            begun = one["starts"][place if place < len(one["starts"]) else 0][0]
            start = torch.tensor([[[[0.0, begun]]]], dtype=torch.float64)
            start[..., 0] = path[0, 0]
            with torch.no_grad():
                _, force = law.model.rolled(start, times, {"field": path[..., None]})
            assert far(record["force"][:301], force[0, 0, :, 0]) < 1e-6  # nine digits of its weights
    data = observe(Trap().simulate_paper(velocities=VELOCITIES[::4], realisations=40), "pulled_length")
    low, high = content["bands"]["length"]
    assert low < float(data.field.min()) and high > float(data.field.max())
    assert content["bands"]["usual"] == bands.usual["external_force"]


def test_protocols_of_ones_own_are_in_the_content() -> None:
    content = rivals_of(2, True)
    assert [each["label"] for each in content["protocols"]] == list(OWN)
    assert len({each["name"] for each in content["protocols"]}) == len(OWN)
    times = torch.arange(301, dtype=torch.float64) / 100
    for known, protocol in zip(content["protocols"], OWN.values(), strict=True):
        length = protocol.length(times)
        assert known["values"] == pytest.approx([float(length[0])], rel=1e-6)
        assert known["lengths"] == pytest.approx((length - length[0]).tolist(), rel=1e-6)
    assert content["protocols"][0]["values"] == content["protocols"][1]["values"] == [0.15]
    firsts = [0.15, content["protocols"][2]["values"][0]]
    assert [start["mean"] for start in content["starts"]] == pytest.approx([first / 0.1 - 1 for first in firsts])
    assert len(content["rival"]["starts"]) == 2 and content["trained"] == [0.12, 0.42]
    assert (content["label"], content["rival"]["label"]) == ("new law", "law of chapter 9")
    assert "two laws that were learned" in content["description"]
    for law in (content["law"], content["rival"]["law"]):
        assert not [name for name in law["tensors"] if name.startswith("decoder")]
        full = chained(law["seeds"][0], **{k: law["architecture"][k] for k in ("internal", "neighbours", "reference")})
        for name, tensor in restored(law).state_dict().items():
            if not name.startswith("decoder"):
                assert torch.allclose(tensor, full.state_dict()[name], rtol=1e-8, atol=0), name
    assert len(json.dumps(content)) < 150_000


def test_a_flow_and_a_rival_may_be_pulled_as_in_the_paper() -> None:
    content = panels.content(model_of("chain"), Chain(), 1, rival=frozen("row"), rival_replica=1)
    alone = content_of("chain")
    for name in ("protocols", "trained", "range"):
        assert content[name] == alone[name]
    assert content["rival"]["law"]["seeds"] == [1] and "decoder.given" in content["law"]["tensors"]
    single = panels.content(chained(5), Chain())
    assert "rival" not in single and "label" not in single and "decoder.given" not in single["law"]["tensors"]


def test_first_states_of_gases_are_local_equilibria() -> None:
    gases = [Lattice(20, (0.5,), 2.0, 3.0), Lattice(20, (-1.0,))]
    profiles = {"uniform": np.full(20, 0.3), "wave": 0.5 + 0.2 * np.sin(np.pi * np.arange(20) / 10)}
    content = json.loads(json.dumps(panels.gas_content(gases, profiles, 3, 7), allow_nan=False))
    assert content["sites"] == 20 and content["runs"] == 192
    assert content["gases"][0] == {"label": "attracting, a = 0.779", "slowed": np.exp(-0.25), "frequency": 3.0}
    assert [profile["density"] for profile in content["profiles"]] == [each.tolist() for each in profiles.values()]
    for gas, starts in zip(gases, content["starts"], strict=True):
        for density, start in zip(profiles.values(), starts, strict=True):
            words = np.frombuffer(base64.b64decode(start), "<u8").reshape(3, 20)
            assert np.array_equal(words, gas.equilibrium(density, 3, 7))
    assert panels.gas_content(gases, profiles, 3, 7) == content
    assert panels.gas_content(gases, profiles, 3, 8)["starts"] != content["starts"]


def test_bad_input_is_named() -> None:
    odd: Any = 3
    half = {"uniform": np.full(20, 0.5)}
    for gases, profiles, words, sentence in (
        ([], half, 4, "gases and profiles must not be empty, but number 0, 1"),
        ([Lattice(20)], {}, 4, "gases and profiles must not be empty, but number 1, 0"),
        ([Lattice(20, (0.1, 0.1))], half, 4, "gases must couple nearest neighbours alone, but one has a reach of 2"),
        ([Lattice(20), Lattice(30)], half, 4, "density must have shape"),
        ([Lattice(20)], {"full": np.ones(20)}, 4, "density must be above 0 and below 1"),
        ([Lattice(20)], half, 0, "words must be"),
    ):
        with pytest.raises(ValueError, match=f"^{sentence}"):
            panels.gas(gases, profiles, words)
    with pytest.raises(ValueError, match="seed must be"):
        panels.gas([Lattice(20)], half, seed=-1)
    with pytest.raises(ValueError, match="replica must be below 2, but is 5"):
        panels.panel(model_of("trap"), Trap(), 5)
    with pytest.raises(ValueError, match="model must have the decoder 'mixture' or 'flow' to run in a page, but has"):
        panels.panel(Model([0], Architecture(decoder="gaussian")), Chain())
    with pytest.raises(ValueError, match="rival must have the layout .* to run in a page, but has"):
        panels.panel(model_of("chain"), Chain(), rival=model_of("trap"))
    with pytest.raises(ValueError, match="rival must have an internal variable to run in a page, but has none"):
        panels.panel(model_of("chain"), Chain(), rival=Model([0], Architecture(decoder="flow", internal=0)))
    with pytest.raises(ValueError, match="replica must be below 2, but is 2"):
        panels.panel(model_of("chain"), Chain(), rival=model_of("chain"), rival_replica=2)
    for more in ({"rival": model_of("trap")}, {"protocols": OWN}):
        with pytest.raises(ValueError, match="^rival and protocols must be None for a Trap, but are given"):
            panels.panel(model_of("trap"), Trap(), **more)
    with pytest.raises(ValueError, match="protocols must number at least 1, but number 0"):
        panels.panel(model_of("chain"), Chain(), protocols={})
    with pytest.raises(ValueError, match="lengths must be above 0"):
        panels.panel(model_of("chain"), Chain(), protocols={"Push": Protocol("push", 0.2, 0.1, (1.0,))})
    with pytest.raises(ValueError, match="the layout .* to run in a page, but has"):
        panels.panel(model_of("trap"), Chain())
    with pytest.raises(ValueError, match="internal 1 to run in a page, but has 2"):
        panels.panel(frozen("point", internal=2), Trap())
    with pytest.raises(ValueError, match="system must be one of 'Chain', 'Trap', but is 'int'"):
        panels.panel(model_of("trap"), odd)
    with pytest.raises(ValueError, match="seed must be"):
        panels.content(model_of("trap"), Trap(), seed=-1)


def test_bands_of_another_model_are_refused() -> None:
    bands, _ = banded_of()
    for model, system in ((bands.laws[1].model, Trap()), (chained(3), Chain())):
        with pytest.raises(ValueError, match="^bands must be of a Trap, the model their first law"):
            panels.content(model, system, bands=bands)


def test_widgets_have_no_address_in_their_words() -> None:
    assert repr(panels.panel(model_of("trap"), Trap())).startswith("<Panel: Live panel: a particle")
    assert repr(panels.gas([Lattice(8)], {"uniform": np.full(8, 0.5)})).startswith("<Gas: Live panel: particles")
