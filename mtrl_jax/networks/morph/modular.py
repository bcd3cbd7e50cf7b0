"""Modularized morphing: one convolution as a whole module, a graph of convolutions.

Wei, Wang & Chen 2017, *Modularized Morphing of Neural Networks*, arXiv 1701.03281. Vertices are
blobs, edges are convolutions; what meets at a vertex is added. A module with one source and one
sink computes, while its activations are `PActivation`s at a = 1, one convolution, whose kernel is
the sum over paths p from source to sink

    G = sum_p F_{p, last} * ... * F_{p, 1}

so a layer can become any module whose free kernels solve this equation. A module that arises by
splitting edges in series and in parallel is simple morphable; every other one is complex, and its
equation is solved edge by edge, linear in each, until nothing is left.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.networks.morph.factor import Size, compose, factor, pad_kernel
from mtrl_jax.networks.morph.wider import generator
from mtrl_jax.types import Array

__all__ = ["Edge", "apply_module", "module_kernel", "morph_module", "reduction", "split_shortcut"]

_LARGEST = 30_000_000  # elements of one edge's equations, in float64


class Edge(NamedTuple):
    """A convolution between two blobs.

    Attributes:
      source, target: names of the vertices.
      kernel: `[Kh, Kw, in, out]`, odd sizes.
    """

    source: str
    target: str
    kernel: np.ndarray


def reduction(
    edges: Sequence[tuple[str, str]], source: str, sink: str
) -> list[tuple[str, str]] | None:
    """The steps that take a module back to one edge, or None if it is complex.

    The paper's procedure: merge parallel edges and contract vertices with one edge in and one out,
    until neither is possible. Read backwards it is the recipe of splits.

    Args:
      edges: (source, target) of every edge.
      source, sink: of the module.

    Returns:
      ("merge", "a->b") and ("contract", "v") in order.

    Raises:
      ValueError: if the graph has a cycle, or a vertex that no path from source to sink visits.
    """
    _order([Edge(a, b, np.zeros((1, 1, 1, 1))) for a, b in edges], source, sink)
    left, steps = list(edges), []
    while len(left) > 1:
        doubled = next((edge for edge in left if left.count(edge) > 1), None)
        if doubled is not None:
            left.remove(doubled)
            steps.append(("merge", "->".join(doubled)))
            continue
        for vertex in dict.fromkeys(b for _, b in left if b != sink):
            enter = [e for e in left if e[1] == vertex]
            leave = [e for e in left if e[0] == vertex]
            if len(enter) == len(leave) == 1:
                left = [e for e in left if vertex not in e] + [(enter[0][0], leave[0][1])]
                steps.append(("contract", vertex))
                break
        else:
            return None
    return steps


def _order(edges: Sequence[Edge], source: str, sink: str) -> list[str]:
    """Vertices, each behind all it reads; checks that the module is one."""
    order = [source]
    vertices = dict.fromkeys(v for edge in edges for v in (edge.source, edge.target))
    while len(order) < len(vertices):
        ready = [
            v
            for v in vertices
            if v not in order
            and any(e.target == v for e in edges)
            and all(e.source in order for e in edges if e.target == v)
        ]
        if not ready:
            raise ValueError(
                f"edges: {sorted(set(vertices) - set(order))} form a cycle or are not "
                f"reached from {source!r}"
            )
        order += ready
    ends = [v for v in order if not any(e.source == v for e in edges)]
    if ends != [sink] or any(e.target == source for e in edges):
        raise ValueError(f"edges must lead from {source!r} to {sink!r} only; they end at {ends}")
    return order


def _add(kernels: Sequence[np.ndarray]) -> np.ndarray:
    size = (max(k.shape[0] for k in kernels), max(k.shape[1] for k in kernels))
    return np.sum([pad_kernel(k, size) for k in kernels], axis=0)


def _from(edges: Sequence[Edge], source: str, order: Sequence[str]) -> dict[str, np.ndarray]:
    """The kernel from `source` to every vertex behind it."""
    width = next(e.kernel.shape[2] for e in edges if e.source == source)
    kernels = {source: np.eye(width)[None, None]}
    for vertex in order:
        parts = [
            compose(kernels[e.source], np.asarray(e.kernel, np.float64))
            for e in edges
            if e.target == vertex and e.source in kernels
        ]
        if parts and vertex != source:
            kernels[vertex] = _add(parts)
    return kernels


def module_kernel(edges: Sequence[Edge], source: str, sink: str) -> np.ndarray:
    """The one kernel that the module computes while it is linear: the modular equation.

    Raises:
      ValueError: as `reduction`; for even kernel sizes that meet odd ones.
    """
    return _from(edges, source, _order(edges, source, sink))[sink]


def morph_module(
    kernel: np.ndarray,
    template: Sequence[tuple[str, str, Size]],
    channels: Mapping[str, int],
    source: str,
    sink: str,
    key: Array,
    *,
    sweeps: int = 3,
) -> list[Edge]:
    """Kernels for a module, simple or complex, that compute what one layer computes.

    The paper's Algorithm 2 (cyclic): draw all kernels, then solve the modular equation for one edge
    at a time with the others fixed, C1 * F_j * C2 + C3 = G~, until the error is 0. One solution is
    exact as soon as |F_j| >= |G~| and both sides of the edge have full rank, so the largest kernels
    come first. The draws leave each path about the parent's scale.

    Args:
      kernel: of the parent `[Kh, Kw, I, J]`.
      template: (source, target, kernel size) of each edge; odd sizes.
      channels: of every vertex but source and sink.
      source, sink: of the module.
      key: typed key of the draws.
      sweeps: rounds over all edges.

    Raises:
      ValueError: for a graph that is no module, a kernel that does not fit, an edge too large to
        solve (more than 3e7 equations times unknowns: take splits with `series` and `parallel`),
        or an error that is left in the end.
    """
    kernel, rng = np.asarray(kernel, np.float64), generator(key)
    widths = {**channels, source: kernel.shape[2], sink: kernel.shape[3]}
    edges = []
    for start, stop, size in template:
        if any(n % 2 == 0 for n in size):
            raise ValueError(f"template: kernel sizes must be odd; {start}->{stop} has {size}")
        shape = (*size, widths[start], widths[stop])
        edges.append(Edge(start, stop, rng.normal(size=shape) / np.sqrt(np.prod(shape[:3]))))
    target = pad_kernel(kernel, module_kernel(edges, source, sink).shape[:2])
    for n in sorted(range(len(edges)), key=lambda n: -edges[n].kernel.size) * sweeps:
        edges[n] = edges[n]._replace(kernel=_solve_edge(edges, n, target, source, sink))
        error = np.abs(module_kernel(edges, source, sink) - target).max()
        if error <= 1e-9 * max(float(np.abs(target).max()), 1e-30):
            return edges
    raise ValueError(
        f"channels: an error of {error:.2g} is left after {sweeps} sweeps, as no edge has the "
        f"{target.size} weights of the module's kernel {target.shape}; take more channels"
    )


def _solve_edge(
    edges: Sequence[Edge], n: int, target: np.ndarray, source: str, sink: str
) -> np.ndarray:
    order = _order(edges, source, sink)
    edge = edges[n]
    without = [*edges[:n], edge._replace(kernel=np.zeros_like(edge.kernel)), *edges[n + 1 :]]
    rest = target - pad_kernel(module_kernel(without, source, sink), target.shape[:2])
    width = edge.kernel.shape[3]
    before = _from(edges, source, order)[edge.source]
    after = (
        np.eye(width)[None, None] if edge.target == sink else _from(edges, edge.target, order)[sink]
    )
    if target.size * edge.kernel.size > _LARGEST:
        raise ValueError(
            f"template: the equations of edge {edge.source}->{edge.target} have {target.size} x "
            f"{edge.kernel.size} elements, more than {_LARGEST}; build the module with series and "
            "parallel instead"
        )
    (hb, wb), (hf, wf), (ha, wa) = before.shape[:2], edge.kernel.shape[:2], after.shape[:2]
    top = (target.shape[0] - (hb + hf + ha - 2)) // 2
    left = (target.shape[1] - (wb + wf + wa - 2)) // 2
    matrix = np.zeros((*target.shape, *edge.kernel.shape))
    for r in range(hf):
        for s in range(wf):
            for p in range(hb):
                for q in range(wb):
                    for t in range(ha):
                        for u in range(wa):
                            matrix[top + r + p + t, left + s + q + u, :, :, r, s] += np.einsum(
                                "ic,dj->ijcd", before[p, q], after[t, u]
                            )
    solved = np.linalg.lstsq(matrix.reshape(target.size, -1), rest.ravel(), rcond=None)[0]
    return solved.reshape(edge.kernel.shape)


def split_shortcut(
    channels: int, hidden: int, sizes: tuple[Size, Size], key: Array, *, part: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """The paper's recipe for residual networks: part of an identity shortcut as two convolutions.

    x = (1 - part) x + (F2 * F1)(x) with F2 * F1 = part I; the shortcut that stays is scaled by
    1 - part. With borders as `series_padding((1, 1), sizes)` says.

    Returns:
      F1 and F2, as `factor`.
    """
    if not 0 < part <= 1:
        raise ValueError(f"part must lie in (0, 1]; got {part}")
    return factor(part * np.eye(channels)[None, None], hidden, sizes, key)


def apply_module(
    edges: Sequence[Edge],
    x: Array,
    source: str,
    sink: str,
    activations: Mapping[str, Callable[[Array], Array]] | None = None,
) -> Array:
    """Runs a module at stride 1, equal to its one kernel with SAME padding, borders included.

    All padding goes to the input and every convolution is VALID; where blobs of different margins
    meet, the larger ones are cropped.

    Args:
      edges: of the module.
      x: `[B, H, W, I]`. Carries gradient, as do the kernels.
      source, sink: of the module.
      activations: functions at vertices, `PActivation`s at a = 1 when the module is new.

    Returns:
      `[B, H, W, J]`.
    """
    order = _order(edges, source, sink)
    margins = {source: (0, 0)}  # what the longest path from the source takes away
    for vertex in order[1:]:
        taken = [
            (
                margins[e.source][0] + e.kernel.shape[0] // 2,
                margins[e.source][1] + e.kernel.shape[1] // 2,
            )
            for e in edges
            if e.target == vertex
        ]
        margins[vertex] = (max(h for h, _ in taken), max(w for _, w in taken))
    top, left = margins[sink]
    blobs: dict[str, Any] = {source: jnp.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))}
    for vertex in order[1:]:
        parts = [_valid(blobs[e.source], e.kernel) for e in edges if e.target == vertex]
        height, width = min(p.shape[1] for p in parts), min(p.shape[2] for p in parts)
        blob = sum(_crop(p, height, width) for p in parts)
        blobs[vertex] = (activations or {}).get(vertex, lambda y: y)(blob)
    return blobs[sink]


def _valid(x: Array, kernel: Any) -> Array:
    return jax.lax.conv_general_dilated(
        x, jnp.asarray(kernel, x.dtype), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _crop(x: Array, height: int, width: int) -> Array:
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]
