"""Gradient surgery: optax transforms that turn K task gradients into one update.

For example::

    tx = optax.chain(
        surgery.pcgrad(num_tasks=3, seed=0), optax.clip_by_global_norm(1.0), optax.adam(1e-3)
    )
    state = tx.init(params)
    losses, grads = surgery.per_task_value_and_grad(loss_fn)(params, batches)  # [K, *param]
    updates, state = tx.update(grads, state, params)  # [*param]

Needs jax and optax only. One method a file; what they share is `make_transform`.
"""

import difflib
from collections.abc import Callable

from mtrl_jax.surgery.a_gem import a_gem
from mtrl_jax.surgery.aligned_mtl import aligned_mtl, aligned_mtl_weights
from mtrl_jax.surgery.auxilearn import auxilearn_gradient
from mtrl_jax.surgery.cagrad import cagrad, cagrad_weights
from mtrl_jax.surgery.config import config, config_weights
from mtrl_jax.surgery.curvature import multi_task_curvature
from mtrl_jax.surgery.db_mtl import db_mtl, db_mtl_weights
from mtrl_jax.surgery.diagnostics import (
    Diagnostics,
    all_diagnostics,
    cosine_similarity,
    curvature_bound,
    detrimental_interference,
    diagnostics,
    magnitude_similarity,
    num_conflicts,
    reseed,
)
from mtrl_jax.surgery.dual_proj import dual_proj, dual_proj_weights
from mtrl_jax.surgery.dwa import DWAState, dwa, dwa_weights
from mtrl_jax.surgery.excess_mtl import ExcessMTLState, excess_mtl, excess_mtl_step
from mtrl_jax.surgery.fairgrad import fairgrad, fairgrad_weights
from mtrl_jax.surgery.famo import FAMOState, famo, famo_step, famo_weights
from mtrl_jax.surgery.features import FeatureGradients, feature_value_and_grad
from mtrl_jax.surgery.go4align import cluster_means, go4align, go4align_step
from mtrl_jax.surgery.graddrop import graddrop, graddrop_leaf
from mtrl_jax.surgery.gradient_cosine import gradient_cosine, gradient_cosine_weights
from mtrl_jax.surgery.gradients import per_task_value_and_grad
from mtrl_jax.surgery.gradnorm import GradNormState, gradnorm, gradnorm_step
from mtrl_jax.surgery.gradvac import gradvac, gradvac_weights
from mtrl_jax.surgery.gram import gram_matrix, weighted_sum
from mtrl_jax.surgery.imtl_g import imtl_g, imtl_g_weights
from mtrl_jax.surgery.imtl_l import imtl_l, imtl_l_step
from mtrl_jax.surgery.m_config import MConFIGMemory, MConFIGState, m_config, m_config_step
from mtrl_jax.surgery.mean import mean
from mtrl_jax.surgery.mgda import mgda, mgda_weights
from mtrl_jax.surgery.moco import moco, moco_step
from mtrl_jax.surgery.nash_mtl import clip_weights, nash_mtl, nash_mtl_weights
from mtrl_jax.surgery.ol_aux import OLAuxState, ol_aux, ol_aux_step
from mtrl_jax.surgery.orders import fixed_orders, random_orders
from mtrl_jax.surgery.pcgrad import pcgrad, pcgrad_main_weights, pcgrad_weights
from mtrl_jax.surgery.pivrg import pivrg, pivrg_importance, pivrg_weights
from mtrl_jax.surgery.plot import plot_diagnostics
from mtrl_jax.surgery.quadratic import Solution
from mtrl_jax.surgery.random_weighting import random_weighting, random_weights
from mtrl_jax.surgery.sdmgrad import project_to_simplex, sdmgrad, sdmgrad_step
from mtrl_jax.surgery.stch import STCHState, stch, stch_weights
from mtrl_jax.surgery.sum import sum as sum  # not in __all__: a star must not hide Python's own
from mtrl_jax.surgery.transform import (
    Inputs,
    Memory,
    Method,
    Options,
    SurgeryState,
    Transform,
    factory,
    make_transform,
)
from mtrl_jax.surgery.uncertainty_weighting import (
    uncertainty_step,
    uncertainty_weighting,
    uncertainty_weights,
)
from mtrl_jax.surgery.upgrad import upgrad, upgrad_weights

__all__ = [
    "METHODS",
    "DWAState",
    "Diagnostics",
    "ExcessMTLState",
    "FAMOState",
    "FeatureGradients",
    "GradNormState",
    "Inputs",
    "MConFIGMemory",
    "MConFIGState",
    "Memory",
    "Method",
    "OLAuxState",
    "Options",
    "STCHState",
    "Solution",
    "SurgeryState",
    "Transform",
    "a_gem",
    "aligned_mtl",
    "aligned_mtl_weights",
    "all_diagnostics",
    "auxilearn_gradient",
    "cagrad",
    "cagrad_weights",
    "clip_weights",
    "cluster_means",
    "config",
    "config_weights",
    "cosine_similarity",
    "curvature_bound",
    "db_mtl",
    "db_mtl_weights",
    "detrimental_interference",
    "diagnostics",
    "dual_proj",
    "dual_proj_weights",
    "dwa",
    "dwa_weights",
    "excess_mtl",
    "excess_mtl_step",
    "factory",
    "fairgrad",
    "fairgrad_weights",
    "famo",
    "famo_step",
    "famo_weights",
    "feature_value_and_grad",
    "fixed_orders",
    "go4align",
    "go4align_step",
    "graddrop",
    "graddrop_leaf",
    "gradient_cosine",
    "gradient_cosine_weights",
    "gradnorm",
    "gradnorm_step",
    "gradvac",
    "gradvac_weights",
    "gram_matrix",
    "imtl_g",
    "imtl_g_weights",
    "imtl_l",
    "imtl_l_step",
    "m_config",
    "m_config_step",
    "magnitude_similarity",
    "make_transform",
    "mean",
    "mgda",
    "mgda_weights",
    "moco",
    "moco_step",
    "multi_task_curvature",
    "nash_mtl",
    "nash_mtl_weights",
    "num_conflicts",
    "ol_aux",
    "ol_aux_step",
    "pcgrad",
    "pcgrad_main_weights",
    "pcgrad_weights",
    "per_task_value_and_grad",
    "pivrg",
    "pivrg_importance",
    "pivrg_weights",
    "plot_diagnostics",
    "project_to_simplex",
    "random_orders",
    "random_weighting",
    "random_weights",
    "reseed",
    "sdmgrad",
    "sdmgrad_step",
    "stch",
    "stch_weights",
    "uncertainty_step",
    "uncertainty_weighting",
    "uncertainty_weights",
    "upgrad",
    "upgrad_weights",
    "weighted_sum",
]


class _Methods(dict[str, Callable[..., Transform]]):
    """A dictionary whose KeyError names what may have been meant."""

    def __missing__(self, name: str) -> Callable[..., Transform]:
        near = difflib.get_close_matches(str(name), self, n=3)
        known = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(self)}."
        raise KeyError(f"surgery has no method {name!r}; {known}")


# Every factory is called as METHODS[name](num_tasks=K, seed=0); those that weigh losses want
# task_losses= at every update.
METHODS: dict[str, Callable[..., Transform]] = _Methods(
    {
        "pcgrad": pcgrad,
        "gradvac": gradvac,
        "cagrad": cagrad,
        "mgda": mgda,
        "nash_mtl": nash_mtl,
        "imtl_g": imtl_g,
        "aligned_mtl": aligned_mtl,
        "fairgrad": fairgrad,
        "upgrad": upgrad,
        "dual_proj": dual_proj,
        "config": config,
        "graddrop": graddrop,
        "random_weighting": random_weighting,
        "gradnorm": gradnorm,
        "famo": famo,
        "uncertainty_weighting": uncertainty_weighting,
        "dwa": dwa,
        "gradient_cosine": gradient_cosine,
        "ol_aux": ol_aux,
        "imtl_l": imtl_l,
        "stch": stch,
        "go4align": go4align,
        "sdmgrad": sdmgrad,
        "pivrg": pivrg,
        "db_mtl": db_mtl,
        "moco": moco,
        "excess_mtl": excess_mtl,
        "m_config": m_config,
        "mean": mean,
        "sum": sum,
    }
)
