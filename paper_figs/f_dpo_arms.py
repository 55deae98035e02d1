"""The arms of f-DPO by divergence: what they are called and how they look."""

from style import DIVERGENCES

ARMS = {
    "reverse_kl": ("reverse KL", DIVERGENCES["reverse_kl"]),
    "jensen_shannon": ("Jensen-Shannon", DIVERGENCES["jensen_shannon"]),
    "alpha_3": ("alpha 0.3", DIVERGENCES["alpha_0.3"]),
    "alpha_5": ("alpha 0.5", DIVERGENCES["alpha"]),
    "alpha_7": ("alpha 0.7", DIVERGENCES["alpha_0.7"]),
    "forward_kl": ("forward KL", DIVERGENCES["forward_kl"]),
}
