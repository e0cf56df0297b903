"""Exported laws and the panels made of them: nothing lost, and bad input named."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ibvonns import cli, panels
from ibvonns.chain_model import ChainModel, observe_chain
from ibvonns.exports import exported, restored
from ibvonns.model import Observations, TrapModel
from ibvonns.systems.chain import LENGTHS, Chain
from ibvonns.systems.trap import Trap


@pytest.fixture(scope="module")
def trap_model(seen: Observations) -> TrapModel:
    """Two untrained replicas with scales and gauge."""
    model = TrapModel([3, 4])
    model.set_scales(seen)
    model.freeze(seen)
    return model


@pytest.fixture(scope="module")
def chain_model() -> ChainModel:
    """The same for the chain."""
    model = ChainModel([3, 4])
    seen = observe_chain(Chain().simulate_paper(lengths=(0.12, 0.28), realisations=50))
    model.set_scales(seen)
    model.freeze(seen)
    return model


def test_law_is_the_same_after_a_way_through_json(
    trap_model: TrapModel, chain_model: ChainModel
) -> None:
    for model in (trap_model, chain_model):
        for replica in (0, 1):
            law = json.loads(json.dumps(exported(model, replica)))
            again = restored(law)
            assert again.seeds == [model.seeds[replica]] and type(again) is type(model)
            for name, tensor in model.state_dict().items():
                mine = tensor[replica : replica + 1] if tensor.ndim == 3 else tensor
                assert torch.equal(again.state_dict()[name], mine), name


def test_another_chain_is_restored_with_its_constants() -> None:
    law = json.loads(json.dumps(exported(ChainModel([0], natural_length=0.02, well_strain=3.0))))
    again = restored(law)
    assert isinstance(again, ChainModel) and again.potentials.natural_length == 0.02
    assert again.decoder.well_strain == 3.0


@pytest.mark.parametrize("kind", [TrapModel, ChainModel])
def test_two_internal_variables_are_saved_and_restored(
    kind: type[TrapModel] | type[ChainModel], tmp_path: Path
) -> None:
    model = kind([0, 1], internal=2)
    model.save(tmp_path / "model.safetensors")
    again, alone = kind.load(tmp_path / "model.safetensors"), restored(exported(model, 1))
    assert again.internal == alone.internal == 2
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
        mine = tensor[1:] if tensor.ndim == 3 else tensor
        assert torch.equal(alone.state_dict()[name], mine), name


def test_bad_exports_are_named(trap_model: TrapModel) -> None:
    with pytest.raises(ValueError, match="replica must be below 2, but is 2"):
        exported(trap_model, 2)
    with pytest.raises(ValueError, match="mixture decoder to run in a page, but has a flow"):
        exported(ChainModel([0], "flow"))
    with pytest.raises(ValueError, match="replica must be below 2, but is 5"):
        panels.trap_panel(trap_model, 5)
    with pytest.raises(ValueError, match="has a flow"):
        panels.chain_panel(ChainModel([0], "flow"))
    law = exported(trap_model)
    with pytest.raises(ValueError, match="law must be what `exported` gave"):
        restored({"kind": "Other"})
    del law["tensors"]["encoder.offset"]
    with pytest.raises(ValueError, match="law must hold the tensor 'encoder.offset'"):
        restored(law)


def test_command_writes_a_law_or_nothing(
    trap_model: TrapModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "result", lambda study: (trap_model, None, {}))
    out = tmp_path / "law.json"
    found = CliRunner().invoke(cli.app, ["export", "trap", str(out), "--replica", "1"])
    assert found.exit_code == 0 and restored(json.loads(out.read_text())).seeds == [4]
    found = CliRunner().invoke(cli.app, ["export", "chain-cnf", str(tmp_path / "other.json")])
    assert found.exit_code == 2 and "chain-gmm" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["law.json"]


def test_trap_panel_starts_from_equilibrium(trap_model: TrapModel) -> None:
    trap = Trap(stiffness=2.0)
    content = panels.trap_content(trap_model, 1, trap)
    assert content["system"] == {"stiffness": 2.0, "viscosity": 1.0, "temperature": 0.01}
    draws = torch.randn(1, 100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = trap_model.encoder.encode(trap.equilibrium_deviation * draws)[1, 0]
    assert content["start"] == pytest.approx(drawn.tolist(), abs=5e-3)
    low, high = content["axes"]["length"]
    assert low < content["trained"][0] < content["trained"][1] < high


def test_chain_panel_starts_from_chains_of_the_right_length(chain_model: ChainModel) -> None:
    content = panels.chain_content(chain_model, 0)
    assert len(content["starts"]) == len(LENGTHS)
    low, high = content["range"]
    for length, start in zip(LENGTHS, content["starts"], strict=True):
        levels = np.frombuffer(base64.b64decode(start["cloud"]), "<u2").reshape(200, 10)
        strains = low + (high - low) * levels / 65535
        assert strains.mean(1) == pytest.approx(np.full(200, start["strain"]), abs=1e-4)
        assert start["strain"] == pytest.approx(length / 0.1 - 1)


def test_widgets_have_no_address_in_their_words(trap_model: TrapModel) -> None:
    assert repr(panels.trap_panel(trap_model)).startswith("<Panel: Live panel: a particle")
