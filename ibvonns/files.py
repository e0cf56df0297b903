"""Files: written whole or not at all, and read with a sentence where they are damaged."""

import errno
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = ["load_json", "load_tensors", "plain", "save_json", "save_tensors", "write"]


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, whole or not at all: a reader, or a run that is killed, meets the old one or the new.

    What is written takes the place of `path` at once. Until then it has no name, or, where the system
    knows no files without one, that of a draft beside it, its own, so that several processes may write.
    Links are followed; what is no regular file (a device, a pipe) is written in place; a new file is for
    all whom the umask does not exclude, and one that is replaced keeps its mode. The folder is made if
    there is none.

    Args:
        path: of the file.
        content: of it.

    Raises:
        OSError: it cannot be written, for example because the disk is full; with the path.
    """
    try:
        old: int | None = None
        with suppress(FileNotFoundError):
            old = os.stat(path).st_mode
        if old is not None and not stat.S_ISREG(old):
            Path(path).write_bytes(content)
            return
        target = Path(os.path.realpath(path))
        if old is not None and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name[:40]}.{token_hex(4)}")
        try:
            _fill(draft, content)
            if old is not None:
                os.chmod(draft, stat.S_IMODE(old))
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def _fill(draft: Path, content: bytes) -> None:
    """Write a new file, named when it is whole, so that no kill leaves a part of one."""
    nameless, handle = getattr(os, "O_TMPFILE", 0), -1
    if nameless and Path("/proc/self/fd").exists():
        with suppress(OSError):  # the file system knows none
            handle = os.open(draft.parent, nameless | os.O_WRONLY, 0o666)
    with open(draft if handle < 0 else handle, "xb" if handle < 0 else "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        if handle >= 0:  # a folder is named so that links are followed; the path is absolute all the same
            os.link(f"/proc/self/fd/{file.fileno()}", draft, src_dir_fd=file.fileno(), follow_symlinks=True)


def save_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` as JSON to `path`, whole or not at all.

    Raises:
        ValueError: NaN or infinity in it, which JSON does not know.
        OSError: as `write`.
    """
    write(path, (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def plain(values: Any) -> Any:
    """`values` for JSON, which knows no infinity: the error of a rollout that ran away becomes None.

    >>> plain({"a": [1.0, math.inf]})
    {'a': [1.0, None]}
    """
    if isinstance(values, Mapping):
        return {name: plain(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [plain(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


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
    except (ValueError, RecursionError, SafetensorError) as error:
        raise ValueError(f"path must name a whole {kind} file, but {os.fspath(path)!r} is damaged ({error})") from None


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors to a safetensors file, whole or not at all (`write`).

    Args:
        path: of the file; its folder is made if there is none.
        tensors: by name; they are written from the processor's memory, whatever their device.
        metadata: texts by name, kept in the same file.

    Raises:
        OSError: as `write`.

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
    plain |= {name: plain[name].clone() for name, at in zip(plain, memory, strict=True) if memory.count(at) > 1}
    write(path, save(plain, dict(metadata or {})))


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
