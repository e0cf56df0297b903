"""The commands for data of one's own: the same numbers as the functions, files, and sentences."""

import csv
import io
import json
import re
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from test_fit import interrupted
from toys import TINY, few_of, frozen, same, seen_of
from typer.testing import CliRunner

from ibvonns import answers, commands, fit, from_arrays, reading
from ibvonns.commands import merged, watched
from ibvonns.layouts import Point
from ibvonns.model import Model, load
from ibvonns.optimiser import SOAP
from ibvonns.paper.cli import app
from ibvonns.recipe import Recipe

READ = ["--positions", "x", "--times", "t", "--axes", "condition time realisation"]
NAMES = ["--control", "lambda", "--force", "F"]


def ran(*arguments: Any) -> tuple[int, str, str]:
    """Exit code, output, and what went wrong in one line."""
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.stderr).split())


@cache
def arrays() -> dict[str, Any]:
    few = few_of("point")
    names = {"lambda": "pulled_length", "F": "external_force"}
    records = {name: few.records[key].numpy() for name, key in names.items()}
    return {"x": few.realisations.numpy(), "t": few.times.numpy(), **records}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the trap, and a recipe of 50 steps."""
    numpy.savez(tmp_path / "own.npz", **arrays())
    monkeypatch.setattr(Recipe, "of", lambda *_: replace(TINY["point"], checkpoint_every=5))
    return tmp_path / "own.npz"


@cache
def law() -> Model:
    """What `fit` makes of these arrays by the short recipe."""
    few = arrays()
    data = from_arrays(few["x"], few["t"], {name: few[name] for name in ("lambda", "F")}, axes=READ[-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "of", lambda *_: replace(TINY["point"], checkpoint_every=5))
        return fit(data, Point(), "lambda", "F").model


def test_inspect_tells_what_looks_wrong(own: Path) -> None:
    code, said, _ = ran("inspect", own, *NAMES, *READ)
    assert code == 0 and "realisations    200" in said and "lambda" in said
    numpy.savez(own, **{**arrays(), "F": 0 * arrays()["F"]})
    code, said, _ = ran("inspect", own, *NAMES, *READ)
    assert code == 1 and "E forces['F'] is 0 throughout" in said.replace("\n  ", " ")
    code, _, said = ran("inspect", own, "--control", "k", *READ)
    assert code == 2 and "it has no 'k' but x, t, lambda, F" in said
    assert ran("inspect", own, "--layout", "ring", *READ)[0] == 2


def test_a_fit_leaves_law_scores_log_and_report(own: Path) -> None:
    out = own.parent / "out"
    code, said, _ = ran("fit", own, "--out", out, *NAMES, *READ, "--temperature", 0.02, "--unit", "times=s")
    assert code == 0 and "force: error" in said and "nothing looks wrong" in said
    assert sorted(each.name for each in out.iterdir()) == [
        "law.json", "law.safetensors", "log.jsonl", "report.html", "scores.json",
    ]  # fmt: skip
    model = load(out / "law.safetensors")
    assert same(model.state_dict(), law().state_dict()) and model.architecture.units == {"times": "s"}
    assert model.architecture.temperature == 0.02 and model.architecture.forces == ("F",)
    kept = json.loads((out / "scores.json").read_text())
    assert kept["seeds"] == [0, 1] and kept["scores"].keys() == {"force", "alpha"} and len(kept["unsound"]) == 2
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line.get("stage") for line in (lines[0], lines[-1])] == ["start", "end"]
    assert all("time" in line for line in lines) and len(lines[-1]["terms"]["density"]) == 2


def test_an_interrupted_fit_goes_on(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["fit", own, "--out", own.parent / "out", *NAMES, *READ]
    with monkeypatch.context() as patch:
        interrupted(patch, 33)
        assert ran(*asked)[0] != 0
    (left,) = (own.parent / "out").glob(".checkpoint-*")
    taken, step = list[int](), SOAP.step

    def counted(self: SOAP, *inputs: Any) -> None:
        taken.append(1)
        step(self, *inputs)

    monkeypatch.setattr(SOAP, "step", counted)
    assert ran(*asked)[0] == 0 and len(taken) == 50 - 30 and not left.exists()
    assert same(load(own.parent / "out" / "law.safetensors").state_dict(), law().state_dict())


def test_a_large_file_is_read_in_parts(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, read = list[int](), reading.read_parts

    def seen(path: Path, **keys: Any) -> Any:
        for part in read(path, **{"size": 60_200, **keys}):
            parts.append(part.count)
            yield part

    monkeypatch.setattr(reading, "read_parts", seen)
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    asked = ["fit", own, *NAMES, *READ, "--seeds", 1]
    assert ran(*asked, "--out", own.parent / "whole")[0] == 0 and parts == [200]
    monkeypatch.setattr(commands, "LARGE", 1000)
    assert ran(*asked, "--out", own.parent / "parts")[0] == 0 and parts[1:] == [100, 100]
    assert load(own.parent / "parts" / "law.json").architecture == load(own.parent / "whole" / "law.json").architecture


def test_seeds_of_two_jobs_merge_to_those_of_one(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = list[Path]()
    monkeypatch.setattr(commands, "find_spec", lambda name: None)  # no matplotlib, no report
    for seed in (0, 1):
        out = own.parent / str(seed)
        code, said, _ = ran("fit", own, "--out", out, *NAMES, *READ, "--seeds", 1, "--seed-offset", seed)
        assert code == 0 and 'pip install "ibvonns[plots]"' in said and not (out / "report.html").exists()
        paths.append(out / "law.safetensors")
    whole = own.parent / "whole.safetensors"
    code, said, _ = ran("merge", whole, *paths)
    assert code == 0 and "seeds 0, 1" in said
    one, both, data = load(whole), law(), seen_of("point")
    assert one.seeds == [0, 1]
    found = one.predict(data).states
    alone = torch.cat([load(path).predict(data).states for path in paths])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-12)
    # a seed that is trained alone differs by rounding, which training makes larger
    torch.testing.assert_close(found, both.predict(data).states, rtol=0, atol=1e-5)
    parts = [Model.restored(both.exported(n)) for n in (0, 1)]
    assert same(merged(parts).state_dict(), both.state_dict())
    code, _, said = ran("merge", whole, *paths)
    assert code == 2 and "OUT must name a new file" in said
    code, _, said = ran("merge", own.parent / "again.json", paths[0], whole)
    assert code == 2 and "models must have different seeds, but share [0]" in said


def test_other_models_do_not_merge() -> None:
    point = frozen("point", (3,))
    with pytest.raises(ValueError, match="number 2 differs in decoder"):
        merged([point, frozen("point", (4,), "flow")])
    other = frozen("point", (4,))
    with torch.no_grad():
        other.law.energy.mul_(1.001)
    with pytest.raises(ValueError, match="number 2 has other scales"):
        merged([point, other])
    with pytest.raises(ValueError, match="at least 1"):
        merged([])
    assert merged([point, frozen("point", (4, 5))]).seeds == [3, 4, 5]


@pytest.mark.parametrize("ends", ["npz", "csv"])
def test_a_prediction_is_that_of_the_function(tmp_path: Path, ends: str) -> None:
    law().save(tmp_path / "law.json")
    times = arrays()["t"][:40]
    pulls = numpy.stack([0.3 * times, 0.6 * times])
    if ends == "npz":
        numpy.savez(tmp_path / "pull.npz", **{"times": times, "lambda": pulls, "other": times})
    else:
        rows = [
            f"{n},{t!r},{c!r}"
            for n, pull in enumerate(pulls.tolist())
            for t, c in zip(times.tolist(), pull, strict=True)
        ]
        (tmp_path / "pull.csv").write_text("\n".join(["condition,time,lambda", *rows]))
    code, said, _ = ran("predict", tmp_path / "law.json", tmp_path / f"pull.{ends}")
    assert code == 0
    found = list(csv.DictReader(io.StringIO(said)))
    answer = answers.predict(law(), times, {"lambda": pulls})
    assert len(found) == 80 and "heat" not in found[0]
    for name, band in {"F": answer.force["F"], "work": answer.work, "dissipation": answer.dissipation}.items():
        for end, values in (("", band.mean), ("_std", band.std)):
            told = numpy.array([float(row[name + end]) for row in found]).reshape(2, 40)
            numpy.testing.assert_allclose(told, values, rtol=1e-8, atol=1e-12)
    out = tmp_path / "answer.csv"
    assert ran("predict", tmp_path / "law.json", tmp_path / f"pull.{ends}", "--out", out)[0] == 0
    assert out.read_text() == said


def test_a_row_is_predicted_at_a_given_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "REST", 1.0)  # an untrained law takes long to come to rest
    frozen("row").save(tmp_path / "law.safetensors")
    numpy.savez(tmp_path / "pull.npz", times=arrays()["t"][:20], length=0.01 * arrays()["t"][:20])
    code, said, _ = ran("predict", tmp_path / "law.safetensors", tmp_path / "pull.npz", "--sites", 3)
    assert code == 0 and said.startswith("condition,time,length,force,force_std,work,") and said.count("\n") == 21


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("pull.csv", "time,k\n0,1\n1,2\n", "controls must hold lambda"),
        ("pull.csv", "lambda\n0\n1\n", "FILE must hold the times"),
        ("pull.csv", "time,lambda\n0,a\n", "does not"),
        ("pull.csv", "condition,time,lambda\n0,0,0\n0,1,1\n1,0,1\n", "as many times"),
        ("pull.csv", "condition,time,lambda\n0,0,0\n0,1,1\n1,0,1\n1,2,1\n", "the same times"),
        ("pull.npz", "no archive", "does not"),
        ("pull.txt", "", "the ending of FILE must be one of"),
        ("", "", "must name an existing file"),
    ],
)
def test_what_cannot_be_predicted_is_said(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    law().save(tmp_path / "law.json")
    if name:
        (tmp_path / name).write_text(text)
    code, _, said = ran("predict", tmp_path / "law.json", tmp_path / (name or "none.csv"))
    assert code == 2 and sentence in said
    assert said.count("Invalid value") == 1


def test_a_saved_law_is_reported_beside_data(own: Path) -> None:
    law().save(own.parent / "law.json")
    out = own.parent / "page.html"
    assert ran("report", own.parent / "law.json", own, *READ, "--out", out)[0] == 0
    assert "A saved law beside 200 realisations" in out.read_text(encoding="utf-8")
    code, _, said = ran("report", own.parent / "law.json", own, "--out", out)
    assert code == 2 and "no 'positions'" in said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--internal", "two"], "internal must be a number or 'auto'"),
        (["--decoder", "magic"], "decoder must be one of"),
        (["--steps", "leap"], "steps must be one of"),
        (["--unit", "ms"], "unit must be a name, = and a word"),
        (["--unit", "k=N/m"], "units must be one of"),
        (["--layout", "row"], "spacing is needed for a chain"),
        (["--control", "other"], "no 'other'"),
    ],
)
def test_a_fit_that_cannot_be_is_refused_in_a_sentence(own: Path, options: list[str], sentence: str) -> None:
    names = [] if options[0] in ("--control", "--layout") else NAMES
    code, _, said = ran("fit", own, "--out", own.parent / "out", *names, *READ, *options)
    assert code == 2 and sentence in said
    assert not (own.parent / "out" / "law.json").exists()


def test_checkpoints_are_logged_as_they_come(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Steps in all are counted from the first that has a term: a run may begin with a later stage."""
    history = torch.full((6, 2), torch.nan, dtype=torch.float64)
    path = tmp_path / ".checkpoint-0123456789abcdef.safetensors"
    with watched(tmp_path, wait=0.01, say=0.02) as log:
        log(stage="start", x=float("inf"))
        for done in (5, 15, 15):
            history[2 + done // 10] = torch.tensor([1.0 * done, torch.nan])
            save_file({"done": torch.tensor(done), "history.end": history}, path)
            time.sleep(0.3)
        path.write_bytes(b"half")
        time.sleep(0.05)
        path.unlink()
        time.sleep(0.1)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[0]["stage"] == "start" and lines[0]["x"] is None
    steps = [(line["run"], line["step"], line["of"], line["terms"]) for line in lines[1:] if line["step"] > 0]
    assert ("01234567", 5, 40, {"end": [5.0, None]}) in steps and steps[-1][1:3] == (15, 40)
    assert len(steps) == 2
    said = capsys.readouterr().err
    assert "step 15 of 40, 0:00:0" in said and said.count("now scored") == 1 and said.endswith("now scored\n")
