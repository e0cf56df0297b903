"""Files: written whole or not at all, and read with a sentence where they are damaged."""

import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = ["draft", "load_json", "load_tensors", "save_json", "save_tensors"]


@contextmanager
def draft(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file beside `path` to be written, which then takes its place; gone if the writing fails.

    A reader, or a run that is killed half-way, meets either the old file or the new one. The draft
    has a name of its own, so that two processes may write at once; links are followed, and what is
    no regular file (a device) is written in place. The folder is made if there is none.

    Raises:
        OSError: the folder cannot be made or written.
    """
    target = Path(path).resolve()
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        yield target
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    mask = os.umask(0)
    os.umask(mask)
    try:
        yield Path(name)
        os.chmod(name, target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~mask)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def save_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` as JSON to `path`, whole or not at all.

    Raises:
        ValueError: NaN or infinity in it, which JSON does not know.
        OSError: as `draft`.
    """
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    with draft(path) as file:
        file.write_text(text + "\n", encoding="utf-8")


def load_json(path: str | os.PathLike[str]) -> Any:
    """Read the JSON file `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    with _reading(path, "JSON"):
        return json.loads(Path(path).read_text(encoding="utf-8"))


@contextmanager
def _reading(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turn what a reader says of a missing or damaged file into a sentence."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"path must name an existing file, but {os.fspath(path)!r} is none")
    try:
        yield
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"path must name a whole {kind} file, but {os.fspath(path)!r} is damaged ({error})") from None


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors to a safetensors file, whole or not at all (`draft`).

    Args:
        path: of the file; its folder is made if there is none.
        tensors: by name; they are written from the processor's memory, whatever their device.
        metadata: texts by name, kept in the same file.

    Raises:
        OSError: the folder cannot be made or written.

    >>> from tempfile import TemporaryDirectory
    >>> import torch
    >>> with TemporaryDirectory() as folder:
    ...     save_tensors(f"{folder}/one.safetensors", {"x": torch.zeros(2)}, {"kind": "toy"})
    ...     load_tensors(f"{folder}/one.safetensors")
    ({'x': tensor([0., 0.])}, {'kind': 'toy'})
    """
    # the format refuses two names for the same memory, such as a view beside its base
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    memory = [part.untyped_storage().data_ptr() for part in plain.values()]
    plain = {
        name: part.clone() if memory.count(at) > 1 else part
        for (name, part), at in zip(plain.items(), memory, strict=True)
    }
    with draft(path) as file:
        file.write_bytes(save(plain, dict(metadata or {})))  # in place where `path` is a device


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file: two dictionaries, by name.

    Args:
        path: of the file, as `save_tensors` wrote it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or is not a safetensors file.
    """
    with _reading(path, "safetensors"), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
