r"""A saved law by NumPy alone: copy this one file beside `law.json`, and PyTorch is not needed.

It reads what `Model.save` wrote as JSON, and gives what `law.Law` and `encoder.Encoder` do, to rounding::

    law = PlainLaw.load("law.json")
    alpha = law.encode(positions[:, 0])              # of the first realisations
    states, forces = law.predict(times, controls, alpha)
"""

import json
from collections.abc import Mapping
from itertools import combinations_with_replacement
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PlainLaw"]

DEGREE = 4  # of the polynomials that an encoder of several components sees
FAINT = 0.1  # gain of the forces of bonds in the dissipation network: no tensor tells it
PARTS = ("free", "scale", "shift", "drive", "gate", "mix")
ZERO = np.zeros(1)
Layer = tuple[NDArray[Any], NDArray[Any]]


class PlainLaw:
    """Free energy, forces, rates and encoder of a saved model, for all seeds of the file.

    States z have shape (replicas, ..., fields + internal) at a point and (replicas, ..., sites, fields + internal) on
    a row, in the units of the data; one replica in front serves all. Of the fields of a row the last is the strain, and
    others are given. What is given may be lists.

    Args:
        law: the dictionary that `Model.exported` gave.

    Raises:
        ValueError: something else, a law of a gas, of plain rates or on a layout with rings, or damaged tensors.

    Attributes:
        seeds: of the replicas.
        row: whether the sites are those of a row; else there is one point.
        fields: how many of a state's entries, the first ones, are fields.
        internal: number of internal variables of a site.
        spacing: natural length of a site.
        steps: the rule by which `predict` steps in time, "euler" or "midpoint".

    >>> from ibvonns.layouts import Point
    >>> from ibvonns.model import Architecture, Model
    >>> law = PlainLaw(Model([0, 1], Architecture(Point(), decoder="gaussian")).exported())
    >>> law.free_energy(np.zeros((1, 5, 2))).shape
    (2, 5)
    """

    def __init__(self, law: Mapping[str, Any]):
        kept = isinstance(law, Mapping) and law.get("kind") == "ibvonns.Model"
        _require(kept, "law must be what `Model.exported` gave, but is not")
        try:
            self._read(law["architecture"], law["seeds"], law["tensors"])
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"law must be whole, but is not: {error!r}") from None
        try:  # all of it once: what is missing or does not fit is met here
            z = np.zeros((1, 1, 1, len(self._scale[0])))
            self.encode(np.zeros((1, self._components) if self._components > 1 else 1))
            self.bounded(z), self.free_energy(z), self.step(z, 0.0)
        except (KeyError, ValueError) as error:
            raise ValueError(f"law must hold the tensors of its architecture, but does not: {error}") from None

    def _read(self, a: Mapping[str, Any], seeds: list[int], tensors: Mapping[str, Any]) -> None:
        kind, self.seeds, self.steps = a["layout"]["kind"], list(seeds), a.get("steps", "euler")
        _require(kind in ("Point", "Row"), f"layout must be a Point or a Row without PyTorch, but is a {kind}")
        _require(a.get("gas") is None, "law must not be that of a gas without PyTorch, but is")
        _require(a["law"] == "potentials", f"law must be of 'potentials' without PyTorch, but is of {a['law']!r}")
        _require(self.steps in ("euler", "midpoint"), f"steps must be 'euler' or 'midpoint', but are {self.steps!r}")
        self.row, self.internal, self.spacing = kind == "Row", int(a["internal"]), float(a["spacing"])
        self._neighbours, self._origin = int(bool(a.get("neighbours"))), a.get("reference")
        t = {name: _array(f"tensor {name}", part) for name, part in tensors.items() if name[:3] in ("law", "enc")}
        for name, part in t.items():
            whole = f"tensor {name} must hold {len(self.seeds)} replicas, but has shape {part.shape}"
            _require(part.ndim < 3 or len(part) == len(self.seeds), whole)
        self._tensors, field, energy, rate = t, t["law.field"], float(t["law.energy"]), float(t["law.rate"])
        self.fields, self._components, self._energy = field.shape[1], t["encoder.position"].shape[1], energy
        self._anchored = self._components if a.get("anchored") else 0
        force, clock = energy / field[1] / self.spacing, rate / self.spacing / field[1, -1] if self.row else rate
        # units of z and of df/dz; of g and of dphi/dg, and gains: of a bond, then of alpha
        self._scale = np.concatenate([field, np.array([[0.0], [1.0]]).repeat(self.internal, 1)], 1)
        self._slope = np.array([*force, *self.internal * [-energy]])
        self._drive = np.array(self.row * [force[-1]] + self.internal * [energy])
        self._speed = np.array(self.row * [rate] + self.internal * [clock])
        self._gain = np.array((self.row and not self._neighbours) * [FAINT] + self.internal * [1.0])
        self._mobility = _softplus(t["law.mobility"]) if self.row else np.zeros(1)
        open_ = np.full((len(self.seeds), 2, self.fields), np.inf) * [[-1], [1]]
        self._reach = np.concatenate([open_, t["law.reach"]], -1).swapaxes(0, 1)[:, :, None]

    @classmethod
    def load(cls, path: str | Path) -> "PlainLaw":
        """Read a law that `Model.save` wrote as JSON.

        Args:
            path: of the file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds no law, or one that needs PyTorch.
        """
        try:
            law = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError:  # JSON's errors and those of the encoding
            law = None
        _require(isinstance(law, dict), f"path must name a law saved as JSON, but {str(path)!r} holds none")
        return cls(law)

    def free_energy(self, z: ArrayLike) -> NDArray[Any]:
        """f of each site, Eq. (11), an energy, zero at the reference state: shape (replicas, ...) or with sites.

        Args:
            z: states, shape (replicas, ..., fields + internal), with sites before the last axis on a row.

        Raises:
            ValueError: NaN or wrong shape.
        """
        z = self._states(z)
        value, zero = (self._network(x)[0] for x in (self._scaled(z), self._tensors["law.reference"]))
        return self._energy * (value - zero).reshape(z.shape[:-1])

    def slopes(self, z: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """df/dfield / spacing and g_alpha = -df/dalpha, Eqs. (23), (24), (46).

        Args:
            z: states, as for `free_energy`.

        Returns:
            F_ex of each control or, last, the tension, (..., fields); and an energy, (..., internal).

        Raises:
            ValueError: NaN or wrong shape.
        """
        z = self._states(z)
        slope = self._slope * self._network(self._scaled(z))[1].reshape(z.shape)
        return slope[..., : self.fields], slope[..., self.fields :]

    def driving(self, z: ArrayLike, force: ArrayLike | None = None) -> NDArray[Any]:
        """g at a state, Eqs. (24), (44) to (46): of the bond of a row, then g_alpha.

        Args:
            z: states, as for `free_energy`.
            force: F_ex at the end of a row, shape (replicas, ...) or less; the end is closed if not given.

        Raises:
            ValueError: NaN or wrong shape.
        """
        slope, g_alpha = self.slopes(z)
        if not self.row:
            return g_alpha
        tension = slope[..., -1:]
        end = tension[..., -1:, :]
        if force is not None:
            end = _fit("force", _array("force", force)[..., None, None], end.shape)
        return np.concatenate([np.diff(tension, axis=-2, append=end), g_alpha], -1)

    def rates(self, z: ArrayLike, g: ArrayLike) -> NDArray[Any]:
        """dphi/dg, Eqs. (10), (28), (47), (48), in the shape of g: velocity of the bond of a row, rates of alpha.

        Args:
            z: states, as for `free_energy`.
            g: forces as `driving` gives them.

        Raises:
            ValueError: NaN, wrong shape, or two shapes that do not match.
        """
        z = self._states(z)
        scaled = _fit("g", g, (*z.shape[:-1], len(self._drive))) / self._drive
        known, convex, slope = self._scaled(z)[..., 0 if self.row else self.fields :], scaled, np.zeros_like(scaled)
        if self._neighbours:  # the net force on a site
            net, convex = np.diff(scaled[..., :1], axis=-2, prepend=0.0), scaled[..., 1:]
            known = np.concatenate([known, _points(net)], -1)
        slope[..., self._neighbours :] = self._dissipation(known, _points(convex)).reshape(convex.shape)
        return (slope + (self._mobility * _points(scaled)).reshape(slope.shape)) * self._speed

    def step(self, z: ArrayLike, force: ArrayLike | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """dz/dt, and what the end answers, as `Law.step`: F_ex of each control, or v_n of a row's end, an axis of 1.

        An end that is driven by v_n needs PyTorch: F_ex is then the root of an equation. Euler's rule on a row is
        `z = law.bounded(z + h * law.step(z, force)[0])`.

        Args:
            z: states, as for `free_energy`.
            force: F_ex at the end of a row, shape (replicas, ...) or less.

        Raises:
            ValueError: NaN or wrong shape, or no force on a row.
        """
        z = self._states(z)
        _require(force is not None or not self.row, "force must be given on a Row, for v_n needs PyTorch, but is not")
        w, moved = self.rates(z, self.driving(z, force)), np.zeros_like(z[..., : self.fields])
        if not self.row:
            return np.concatenate([moved, w], -1), self.slopes(z)[0]
        moved[..., -1:] = np.diff(w[..., :1], axis=-2, prepend=0.0) / self.spacing
        return np.concatenate([moved, w[..., 1:]], -1), w[..., -1, :1]

    def bounded(self, z: ArrayLike) -> NDArray[Any]:
        """States with their alpha within the range of the training data and half of it beyond (`Law.bounded`).

        Args:
            z: states, as for `free_energy`.

        Raises:
            ValueError: NaN or wrong shape.
        """
        z = self._states(z)
        return _points(z).clip(*self._reach).reshape(z.shape)

    def encode(self, positions: ArrayLike) -> NDArray[Any]:
        """alpha = rho(<h(x)>) in the stored gauge, Eq. (4): (replicas, ..., internal).

        Args:
            positions: of realisations, lengths, shape (..., realisations), with components as a last axis where
                there are several.

        Raises:
            ValueError: NaN, wrong shape or no realisation.
        """
        x, (mean, deviation) = _array("positions", positions), self._tensors["encoder.position"]
        x, several = (x, True) if self._components > 1 else (x[..., None], False)
        wanted = f"(..., realisations{f', {self._components}' * several})"
        fits = x.ndim > 1 and x.size and x.shape[-1] == self._components
        _require(fits, f"positions must have shape {wanted}, but have shape {np.shape(positions)}")
        rows = (x.reshape(-1, *x.shape[-2:]) - mean) / deviation
        middle = rows.mean(1)[:, None, : self._anchored]  # what an anchored encoder knows by itself
        # row by row, for all features at once would fill the memory
        parts = zip(rows, middle if self._anchored else np.zeros(len(rows)), strict=True)
        raw = self._tanh("rho", np.stack([self._tanh("h", self._seen(row - at)).mean(1) for row, at in parts], 1))
        if self._anchored:
            known = np.broadcast_to(middle[:, 0], (len(raw), *middle[:, 0].shape))
            raw = np.concatenate([known, raw], -1)[..., : self.internal]
        if self._origin is not None:
            raw = raw - self._tanh("rho", self._tanh("h", self._seen((self._origin - mean[None]) / deviation)))
        raw = raw @ self._tensors.get("encoder.mix", np.eye(raw.shape[-1]))
        alpha = (raw - self._tensors["encoder.offset"]) / self._tensors["encoder.scale"]
        return alpha[..., : self.internal].reshape(len(alpha), *x.shape[:-2], self.internal)

    def _seen(self, x: NDArray[Any]) -> NDArray[Any]:
        """What h sees of standardised positions: Hermite polynomials (`Encoder.hermite`), or one component itself."""
        if self._components == 1 and not self._anchored:
            return x
        one = [np.ones_like(x), x]
        for n in range(1, DEGREE):
            one.append(x * one[n] - n * one[n - 1])
        each, axes = [part / factorial(n) ** 0.5 for n, part in enumerate(one)], range(self._components)
        ways = (
            way for n in range(1 + bool(self._anchored), DEGREE + 1) for way in combinations_with_replacement(axes, n)
        )
        return np.stack([np.prod([each[way.count(axis)][..., axis] for axis in axes], 0) for way in ways], -1)

    def predict(self, times: ArrayLike, controls: ArrayLike, alpha: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """States of a point and its forces, as `Model.predict`, by the rule that `steps` names.

        With r the rate of alpha under the controls lambda_n, and h from one time to the next::

            euler, Eq. (29)   alpha + h r(lambda_n, alpha)
            midpoint          alpha + h r((lambda_n + lambda_(n+1)) / 2, alpha + h/2 r(lambda_n, alpha))

        Args:
            times: shape (times,), strictly increasing.
            controls: at these times, shape (conditions, times, controls).
            alpha: to start from, shape (replicas, conditions, internal), or one for all replicas or conditions.

        Returns:
            States (replicas, conditions, times, controls + internal), and F_ex (replicas, conditions, times, controls).

        Raises:
            ValueError: NaN, wrong shape, unsorted times, or the law of a row.

        >>> from ibvonns.layouts import Point
        >>> from ibvonns.model import Architecture, Model
        >>> law = Model([0, 1], Architecture(Point(), decoder="gaussian")).to_numpy()
        >>> states, force = law.predict([0.0, 0.1, 0.2], np.zeros((4, 3, 1)), np.zeros((2, 4, 1)))
        >>> states.shape, force.shape
        ((2, 4, 3, 2), (2, 4, 3, 1))
        """
        _require(not self.row, "law must be that of a Point to predict, but is on a Row, for which there is `step`")
        clock, given = _array("times", times), _array("controls", controls)
        _require(clock.ndim == 1 and (np.diff(clock) > 0).all(), "times must be a row that increases, but are not")
        given = _fit("controls", given, (len(self.seeds), *(1, *given.shape)[-3:-2], len(clock), self.fields))
        first = _fit("alpha", alpha, (*given.shape[:2], self.internal))

        def rate(field: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
            z = np.concatenate([field, alpha], -1)
            return self.rates(z, self.driving(z))

        path, reach = [first], self._reach[..., self.fields :]
        for n, h in enumerate(np.diff(clock)):
            now, after = given[:, :, n], given[:, :, n + 1]
            change = rate(now, path[-1])
            if self.steps == "midpoint":
                change = rate((now + after) / 2, (path[-1] + h / 2 * change).clip(*reach))
            path.append((path[-1] + h * change).clip(*reach))
        states = np.concatenate([given, np.stack(path, 2)], -1)
        return states, self.slopes(states)[0]

    def _states(self, z: ArrayLike) -> NDArray[Any]:
        """States of all replicas."""
        x = _array("z", z)
        _require(x.ndim > 2 or not self.row, f"z must have an axis of sites before the last, but has shape {x.shape}")
        return _fit("z", x, (len(self.seeds), *x.shape[1:-1], self.fields + self.internal))

    def _scaled(self, z: NDArray[Any]) -> NDArray[Any]:
        return _points((z - self._scale[0]) / self._scale[1])

    def _layers(self, name: str) -> list[Layer]:
        """Weights and biases of what has a name, in order."""
        stems = {key.rpartition(".")[0] for key in self._tensors if key.startswith(f"{name}.")}
        weight, bias = "free" if name.endswith("mix") else "weight", not name.endswith(("drive", "mix"))
        return [
            (self._tensors[f"{stem}.{weight}"], self._tensors[f"{stem}.bias"] if bias else ZERO)
            for stem in sorted(stems, key=lambda stem: int(stem.rpartition(".")[2]))
        ]

    def _tanh(self, name: str, x: NDArray[Any]) -> NDArray[Any]:
        """`networks.MLP` of the encoder, at (replicas, points, width) or the same points for all."""
        *hidden, last = self._layers(f"encoder.{name}.layers")
        for layer in hidden:
            x = np.tanh(_affine(x, layer))
        return _affine(x, last)

    def _network(self, z: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """`networks.INN` of f at (replicas, points, width), and its gradient."""
        kept, last, value, beside = [], self._tensors["law.energy_network.last.weight"], ZERO, ZERO
        if "law.energy_network.cubes.weight" in self._tensors:
            weight, bias = (self._tensors[f"law.energy_network.cubes.{part}"] for part in ("weight", "bias"))
            sums = _affine(z, (weight, bias))
            value, beside = (sums**3).sum(-1) / 3, sums**2 @ weight.swapaxes(1, 2)
        for layer in self._layers("law.energy_network.layers"):
            before = _affine(z, layer)
            kept.append((_sigmoid(before), layer[0].swapaxes(1, 2)))
            z = _softplus(before)
        slope = last.swapaxes(1, 2)
        for steep, weight in reversed(kept):
            slope = (slope * steep) @ weight
        return (z @ last)[..., 0] + value, slope + beside

    def _dissipation(self, z: NDArray[Any], g: NDArray[Any]) -> NDArray[Any]:
        """Slope in g of `networks.PICINN`, less that at g = 0, Eq. (12)."""
        value, g, kept, beside = ZERO, np.stack([g, np.zeros_like(g)]), [], ZERO
        if (along := self._tensors.get("law.dissipation_network.along.weight")) is not None:
            stem = "law.dissipation_network.factor"
            steep = _softplus(_affine(z, (self._tensors[f"{stem}.weight"], self._tensors[f"{stem}.bias"])))
            beside = (steep * (g[0] @ along)) @ along.swapaxes(1, 2)
        parts = (self._layers(f"law.dissipation_network.{part}") for part in PARTS)
        for free, scale, shift, drive, gate, mix in zip(*parts, strict=True):
            seen, mixed = self._gain * _affine(z, scale), _softplus(mix[0])
            before = _affine(g * seen, drive) + _affine(z, shift) + value
            z = _softplus(_affine(z, free))
            gates = _softplus(_affine(z, gate))
            value = (_softplus(before) * gates) @ mixed
            kept.append((seen, gates * _sigmoid(before), drive[0].swapaxes(1, 2), mixed.swapaxes(1, 2)))
        slope, adjoint = np.zeros_like(g), np.ones_like(value)
        for seen, steep, back, mixed in reversed(kept):
            adjoint = (adjoint @ mixed) * steep
            slope = slope + (adjoint @ back) * seen
        return slope[0] - slope[1] + beside


def _require(holds: object, sentence: str) -> None:
    if not holds:
        raise ValueError(sentence)


def _array(name: str, values: ArrayLike) -> NDArray[Any]:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array of real numbers, but is of type {type(values).__name__}") from None
    _require(np.isfinite(array).all(), f"{name} must be finite, but holds NaN or infinite values")
    return array


def _fit(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array repeated along the axes that it lacks or has but one of, other than the last."""
    array, wrong = _array(name, values), f"{name} must have shape {shape}, but has shape {np.shape(values)}"
    _require(array.shape[-1:] == shape[-1:], wrong)
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(wrong) from None


def _points(x: NDArray[Any]) -> NDArray[Any]:
    """All axes between replicas and the last as one."""
    return x.reshape(len(x), -1, x.shape[-1])


def _affine(x: NDArray[Any], layer: Layer) -> NDArray[Any]:
    return x @ layer[0] + layer[1]


def _softplus(x: NDArray[Any]) -> NDArray[Any]:
    return np.logaddexp(0.0, x)


def _sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    return (1 + np.tanh(x / 2)) / 2
