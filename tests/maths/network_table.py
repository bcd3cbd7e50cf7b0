"""Every network for many tasks at a small size: its NumPy forward and its number of parameters,
both written by hand from the docstrings' equations."""

from typing import NamedTuple

import jax
import numpy as np

from mtrl_jax.networks import multitask, task_text

K, B, F, SIZE, HIDDEN = 3, 5, 4, 2, (7, 6)
NAMES = ("reach", "door-open", "drawer-open")

# ------------------------------------------------------------------- layers, from flat parameters


def act(x):
    return np.maximum(x, 0.0)


def dense(p, name, x):
    return x @ p[name]["kernel"] + p[name].get("bias", 0.0)


def standardise(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def norm(p, name, x, on):
    return standardise(x) * p[name]["scale"] + p[name]["bias"] if on else x


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def mlp(p, x, depth, ln, name="", last_linear=False):
    for i in range(depth):
        x = dense(p, f"{name}dense{i}", x)
        if not (last_linear and i == depth - 1):
            x = act(norm(p, f"{name}norm{i}", x, ln))
    return x


def with_row(x, row):
    return np.concatenate([x, np.tile(row, (len(x), 1))], 1)


# ------------------------------------------------------------- forwards: (shared, own, x [B, F], k)


def onehot(p, own, x, k, ln):
    return dense(p, "out", mlp(p, with_row(x, np.eye(K)[k]), 2, ln))


def multihead(p, own, x, k, ln):
    h = mlp(p, with_row(x, np.eye(K)[k]), 2, ln)
    return h @ own["out_kernel"] + own["out_bias"]


def separate(p, own, x, k, ln):
    for i in range(2):
        x = act(x @ own[f"dense{i}_kernel"] + own[f"dense{i}_bias"])
    return x @ own["out_kernel"] + own["out_bias"]


def embedding(p, own, x, k, ln):
    z = own["embedding"] / np.sqrt((own["embedding"] ** 2).sum())
    return dense(p, "out", mlp(p, with_row(x, z), 2, ln))


def film(p, own, x, k, ln):
    for i, width in enumerate(HIDDEN):
        both = own["embedding"] @ p[f"film{i}"]["kernel"]
        x = norm(p, f"norm{i}", dense(p, f"dense{i}", x), ln)
        x = act((1.0 + both[:width]) * x + both[width:])
    return dense(p, "out", x)


def soft_modules(p, own, x, k, ln):
    """Three layers of two modules, sample by sample and module by module."""
    f = mlp(p, x, 2, ln, "base_", last_linear=True)
    m = f * own["embedding"]
    for i in range(2):
        m = dense(p, f"gate{i}", act(m))
    out = []
    for b in range(len(x)):
        p0 = softmax(dense(p, "route0", act(m[b])).reshape(2, 2))
        inner = dense(p, "up1", p0.reshape(4)) * m[b]
        p1 = softmax(dense(p, "route1", act(inner)).reshape(2, 2))
        inner = dense(p, "up2", np.concatenate([p0.reshape(4), p1.reshape(4)])) * m[b]
        p2 = softmax(dense(p, "route2", act(inner)).reshape(1, 2))
        inputs = [act(f[b]), act(f[b])]
        for i, route in enumerate((p0, p1, p2)):
            outputs = [
                inputs[j] @ p[f"module{i}_kernel"][j] + p[f"module{i}_bias"][j] for j in range(2)
            ]
            inputs = [row[0] * outputs[0] + row[1] * outputs[1] for row in route]
            if ln:
                scale, bias = p[f"mix{i}_norm_scale"], p[f"mix{i}_norm_bias"]
                inputs = [
                    standardise(v) * s + o for v, s, o in zip(inputs, scale, bias, strict=True)
                ]
            inputs = [act(v) for v in inputs]
        out.append(dense(p, "out", inputs[0]))
    return np.stack(out)


def care(p, own, x, k, ln):
    text = task_text.task_vectors(NAMES)[k].astype(np.float64)
    c = mlp(p, text[None], 2, ln, "context_", last_linear=True)[0]
    z = []
    for m in range(3):
        h = x @ p["encoder0_kernel"][m] + p["encoder0_bias"][m]
        if ln:
            h = standardise(h) * p["encoder_norm0_scale"][m] + p["encoder_norm0_bias"][m]
        z.append(act(h) @ p["encoder1_kernel"][m] + p["encoder1_bias"][m])
    attention = softmax(np.stack([v @ c for v in z]), 0)
    mixed = sum(a[:, None] * v for a, v in zip(attention, z, strict=True))
    return dense(p, "out", mlp(p, with_row(mixed, c), 2, ln))


def paco(p, own, x, k, ln):
    composed = {
        n: sum(w * s for w, s in zip(own["weights"], sets, strict=True)) for n, sets in p.items()
    }
    for i in range(2):
        x = x @ composed[f"dense{i}_kernel"] + composed[f"dense{i}_bias"]
        if ln:
            x = standardise(x) * composed[f"norm{i}_scale"] + composed[f"norm{i}_bias"]
        x = act(x)
    return x @ composed["out_kernel"] + composed["out_bias"]


def moore(p, own, x, k, ln):
    h = []
    for m in range(3):
        y = x @ p["expert0_kernel"][m] + p["expert0_bias"][m]
        if ln:
            y = standardise(y) * p["expert_norm0_scale"][m] + p["expert_norm0_bias"][m]
        h.append(act(y) @ p["expert1_kernel"][m] + p["expert1_bias"][m])
    out = []
    for b in range(len(x)):
        # QR leaves signs free; Gram-Schmidt's make R's diagonal positive.
        q, r = np.linalg.qr(np.stack([v[b] for v in h], 1))
        u = q * np.sign(np.diag(r))
        out.append(np.tanh(u @ own["weights"]) @ own["out_kernel"] + own["out_bias"])
    return np.stack(out)


# ------------------------------------------------------------------------------ the table of them


class Row(NamedTuple):
    forward: object
    options: dict
    shared: int  # parameters
    own: int  # parameters of one task
    norms: int  # further shared ones with layer norms; -1 where those are refused


H0, H1 = HIDDEN
_OUT = H1 * SIZE + SIZE


def _TRUNK(inputs):
    return inputs * H0 + H0 + H0 * H1 + H1


_NORMS = 2 * H0 + 2 * H1

NETWORKS = {
    "onehot": Row(onehot, {}, _TRUNK(F + K) + _OUT, 0, _NORMS),
    "multihead": Row(multihead, {}, _TRUNK(F + K), _OUT, _NORMS),
    "separate": Row(separate, {}, 0, _TRUNK(F) + _OUT, -1),
    "embedding": Row(embedding, {"embedding_size": 3}, _TRUNK(F + 3) + _OUT, 3, _NORMS),
    "film": Row(film, {"embedding_size": 3}, _TRUNK(F) + 3 * 2 * (H0 + H1) + _OUT, 3, _NORMS),
    "soft_modules": Row(
        soft_modules,
        {"num_layers": 3, "num_modules": 2, "module_width": 5, "gate_width": 4},
        _TRUNK(F)  # f
        + (H1 * 4 + 4)
        + (4 * 4 + 4)  # m
        + 2 * (4 * 4 + 4)
        + (4 * 2 + 2)  # three layers' routes
        + (4 * 4 + 4)
        + (8 * 4 + 4)  # what they are conditioned on
        + 2 * (H1 * 5 + 5)
        + 4 * (5 * 5 + 5)  # modules
        + (5 * SIZE + SIZE),
        H1,
        2 * H0 + 3 * 2 * 2 * 5 - 2 * 5,  # the last mixture is one
    ),
    "care": Row(
        care,
        {"num_experts": 3, "encoder": (5, 4)},
        (256 * 5 + 5 + 5 * 4 + 4)  # context
        + 3 * (F * 5 + 5 + 5 * 4 + 4)  # encoders
        + _TRUNK(8)
        + _OUT,
        0,
        2 * 5 + 3 * 2 * 5 + _NORMS,
    ),
    "paco": Row(paco, {"num_sets": 4}, 4 * (_TRUNK(F) + _OUT), 4, 4 * _NORMS),
    "moore": Row(moore, {"num_experts": 3}, 3 * _TRUNK(F), 3 + _OUT, 3 * 2 * H0),
}


def make(name, **options):
    options = NETWORKS[name].options | options
    return multitask.make(name, K, HIDDEN, SIZE, task_names=NAMES, **options)


def parameters(net, seed=0):
    """Shared and own ones in general position: at the start biases are 0 and routing is even. Drawn
    by NumPy, since compiling initialisers takes longer than all the rest."""
    shapes = jax.eval_shape(lambda key: multitask.init(net, key, F), jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path, p):
        return (
            ("scale" in str(path)) + rng.normal(size=p.shape) * 0.7 / max(1, len(p.shape) - 1)
        ).astype(np.float32)

    return jax.tree.map_with_path(draw, shapes)


def inputs(seed=2):
    return np.random.default_rng(seed).normal(size=(K, B, F)).astype(np.float32)


def expected(name, params, x, layer_norm=False):
    """`[K, B, SIZE]` by NumPy in float64."""
    shared, own = jax.tree.map(lambda p: np.asarray(p, np.float64), params)

    def mine(k):
        return jax.tree.map(lambda p: p[k], own)

    forward = NETWORKS[name].forward
    return np.stack([forward(shared, mine(k), x[k].astype(float), k, layer_norm) for k in range(K)])
