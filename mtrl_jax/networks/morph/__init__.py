"""Networks that grow while they learn: bigger ones that compute what the small ones did.

For example::

    growth = morph.copies(64, 128, key)                      # Net2Net: which unit copies which
    wider = morph.Wider(growth, (*morph.outputs("dense0"), *morph.inputs("dense1"),
                                 *morph.inputs("value")), noise=0.01, key=key)
    deeper = morph.Deeper("dense2", morph.identity("dense", 64, nn.relu), like="dense1")
    grow = morph.Sequence(wider, deeper)

    big, big_state = grow(params), morph.carry(opt_state, params, grow)

A morph is a function `(tree, degree)` of trees of arrays: parameters at degree 0, an optimiser's
moments otherwise. Target networks and averages of parameters go through the same morph with the
same key. Morphs run once, on the host; nothing here is meant to be compiled.

What keeps the output, and when::

    layer                             wider                              deeper
    dense, convolution, embedding     always                             behind f(f(x)) = f(x)
    depthwise convolution             always                             -
    batch norm                        always                             evaluation mode only
    layer norm, RMS norm              equally many copies of each unit   cannot
    LSTM, GRU                         always; carries too                in a residual branch
    group norm, attention, dropout    refused, with the reason           in a residual branch

    another activation                always                             PActivation, or residual
"""

from mtrl_jax.networks.morph.activation import (
    LINEAR_SHARE,
    PActivation,
    check_idempotent,
    keep_shares,
    p_activation,
)
from mtrl_jax.networks.morph.deeper import Deeper, Rename, batch_norm_identity, identity, silent
from mtrl_jax.networks.morph.edits import Edit, inputs, outputs, through
from mtrl_jax.networks.morph.factor import compose, factor, pad_kernel, split_sum
from mtrl_jax.networks.morph.modular import (
    Edge,
    apply_module,
    module_kernel,
    morph_module,
    reduction,
    split_shortcut,
)
from mtrl_jax.networks.morph.moments import DEGREES, Morph, Sequence, carry
from mtrl_jax.networks.morph.morphism import (
    BiggerKernel,
    Parallel,
    Series,
    parallel,
    series,
    series_padding,
)
from mtrl_jax.networks.morph.wider import Growth, Wider, copies, new_units, widen_units

__all__ = [
    "DEGREES",
    "LINEAR_SHARE",
    "BiggerKernel",
    "Deeper",
    "Edge",
    "Edit",
    "Growth",
    "Morph",
    "PActivation",
    "Parallel",
    "Rename",
    "Sequence",
    "Series",
    "Wider",
    "apply_module",
    "batch_norm_identity",
    "carry",
    "check_idempotent",
    "compose",
    "copies",
    "factor",
    "identity",
    "inputs",
    "keep_shares",
    "module_kernel",
    "morph_module",
    "new_units",
    "outputs",
    "p_activation",
    "pad_kernel",
    "parallel",
    "reduction",
    "series",
    "series_padding",
    "silent",
    "split_shortcut",
    "split_sum",
    "through",
    "widen_units",
]
