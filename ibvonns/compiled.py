"""Compiled loops: the same code in every process, kept on disk where that is possible.

Numba's own cache has two faults that matter here. What a process compiles is not, to the last bit of
a sum, what later ones load: inner functions are compiled alone, then once more within the loop that
is kept, and the process that compiles calls the former. So here a loop is compiled apart, and what
was kept is loaded, by the process that compiled it, too. And a missing or damaged folder is an error.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from numba import config as numba_config
from numba import njit
from numba.core.caching import FunctionCache, NullCache
from numba.core.codegen import JITCPUCodegen

__all__ = ["INTERPRETED", "compiled", "first_only", "on_threads"]

config: Any = numba_config  # it has no types
INTERPRETED = bool(config.DISABLE_JIT)  #: Whether Numba compiles nothing (NUMBA_DISABLE_JIT).
_say = cache(logging.getLogger(__name__).warning)  # once in a process
_apart = cache(lambda: JITCPUCodegen("ibvonns"))  # a code generator in which nothing compiled meets what is run


class _Kept(FunctionCache):
    """Numba's cache of a loop, in which what is damaged or cannot be written is a miss and no error."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]):
        super().__init__(function)
        self.options = options

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What was kept, or is compiled now."""
        if (found := self._stored(sig, target_context)) is not None:
            return found
        loop, generator = njit(nogil=True, **self.options)(self._py_func), target_context._internal_codegen
        target_context._internal_codegen = _apart()  # nobody else compiles meanwhile: Numba's lock is held
        try:
            loop.compile(sig)
            (made,) = loop.overloads.values()
            self.save_overload(sig, made)
        finally:
            target_context._internal_codegen = generator
        return self._stored(sig, target_context) or made._replace(metadata=None)  # Numba writes on it what it took

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        """Numba's, and when the files were changed in which there is what the loop calls."""
        called = (getattr(part, "py_func", None) for part in self._py_func.__globals__.values())
        files = sorted({part.__code__.co_filename for part in called if part is not None})
        return *super()._index_key(sig, codegen), *(os.stat(file).st_mtime_ns for file in files if os.path.exists(file))

    def _stored(self, sig: Any, target_context: Any) -> Any:
        try:
            with self._alone():
                return super().load_overload(sig, target_context)
        except Exception as error:  # whatever unpickling a part of a file may raise
            _say("a compiled loop in %s is damaged (%s), and is compiled anew", self.cache_path, type(error).__name__)
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep it, or say why not."""
        try:
            with self._alone():
                super().save_overload(sig, data)
        except OSError as error:
            _say("compiled loops are not kept in %s (%s); set NUMBA_CACHE_DIR to choose", self.cache_path, error)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for other processes: Numba reads, changes and writes back an index of what it keeps."""
        with ExitStack() as held:
            with suppress(ImportError, OSError):
                from fcntl import LOCK_EX, flock  # not on Windows

                flock(held.enter_context(open(Path(self.cache_path) / ".ibvonns.lock", "ab")), LOCK_EX)
            yield


class _Lost(NullCache):
    """No folder to keep a loop in, which is said when it is compiled."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]):
        self.parts = function, options

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is compiled now."""
        _say("compiled loops are kept for this process alone: no folder can be written; set NUMBA_CACHE_DIR to choose")
        before = config.CACHE_DIR
        try:
            with suppress(OSError, RuntimeError), TemporaryDirectory() as config.CACHE_DIR:
                return _Kept(*self.parts).load_overload(sig, target_context)
            return None  # not even a temporary one
        finally:
            config.CACHE_DIR = before


def _cache_of(*parts: Any) -> Any:
    """The cache of a loop: in NUMBA_CACHE_DIR, beside the library, or in the user's cache."""
    folder = Path(parts[0].__code__.co_filename).parent
    with suppress(OSError, RuntimeError):
        # without a home Numba would make a folder called "~" wherever it stands
        if config.CACHE_DIR or os.access(folder, os.W_OK) or Path("~").expanduser().is_absolute():
            return _Kept(*parts)
    return _Lost(*parts)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator for a loop that Python calls: compiled at its first call, and run beside other threads.

    What was compiled is kept for other processes where a folder can be written. Neither a missing nor
    a damaged one is an error: it is said once, and the loop is compiled for the process.

    Args:
        options: of `numba.njit`.

    >>> @compiled()
    ... def double(x):
    ...     return 2 * x
    >>> double(3)
    6
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        loop = njit(nogil=True, **options)(function)
        if INTERPRETED:
            _say("NUMBA_DISABLE_JIT is set: loops that would be compiled run as plain Python, far slower")
        else:
            loop._cache = _cache_of(function, options)
        return loop

    return decorate


def on_threads(work: Callable[[Any], None], parts: Iterable[Any], threads: int) -> None:
    """Call a compiled loop for each part of the work, on several threads at once.

    Args:
        work: is called with a part, and leaves the others' memory alone.
        parts: of the work.
        threads: how many; a single one is the caller's own.

    >>> squares = [0, 0, 0]
    >>> on_threads(lambda n: squares.__setitem__(n, n**2), range(3), threads=2)
    >>> squares
    [0, 1, 4]
    """
    with ThreadPoolExecutor(threads) as pool:
        list(map(work, parts) if threads == 1 else pool.map(work, parts))


def first_only() -> None:
    """Refuse to differentiate the derivative that a compiled loop gives, which knows nothing of its own.

    To be called on the way back.

    Raises:
        RuntimeError: the graph of the way back is asked for (`create_graph`).
    """
    refused = "create_graph must be False where a loop is compiled, which has first derivatives alone"
    if torch.is_grad_enabled():
        raise RuntimeError(f"{refused}; `log_density` and the backend 'reference' have others")
