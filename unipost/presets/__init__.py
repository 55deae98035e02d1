"""Presets: functions that return the one `Objective`, named as in the papers.

Every number is an argument; where papers and libraries differ, the docstring says
whose convention the default is. Any part of the object returned can be swapped with
`dataclasses.replace`, and in a config by naming the field.
"""

from __future__ import annotations

from collections.abc import Callable

from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.presets.demonstrations import alpha_sft as alpha_sft
from unipost.presets.demonstrations import dft as dft
from unipost.presets.demonstrations import f_sft as f_sft
from unipost.presets.demonstrations import iw_sft as iw_sft
from unipost.presets.demonstrations import psft as psft
from unipost.presets.demonstrations import sft as sft
from unipost.presets.mixing import chord as chord
from unipost.presets.mixing import chord_phi as chord_phi
from unipost.presets.mixing import hpt as hpt
from unipost.presets.mixing import luffy as luffy
from unipost.presets.mixing import prefix_rft as prefix_rft
from unipost.presets.mixing import relift as relift
from unipost.presets.mixing import rl_sft as rl_sft
from unipost.presets.mixing import srft as srft
from unipost.presets.off_policy import agro as agro
from unipost.presets.off_policy import asymre as asymre
from unipost.presets.off_policy import awr as awr
from unipost.presets.off_policy import copg as copg
from unipost.presets.off_policy import decoupled_ppo as decoupled_ppo
from unipost.presets.off_policy import f_tb as f_tb
from unipost.presets.off_policy import masked_is as masked_is
from unipost.presets.off_policy import opmd as opmd
from unipost.presets.off_policy import tis as tis
from unipost.presets.off_policy import topr as topr
from unipost.presets.preferences import aot as aot
from unipost.presets.preferences import apo as apo
from unipost.presets.preferences import bco as bco
from unipost.presets.preferences import cdpo as cdpo
from unipost.presets.preferences import chi_po as chi_po
from unipost.presets.preferences import cpo as cpo
from unipost.presets.preferences import discopop as discopop
from unipost.presets.preferences import dpo as dpo
from unipost.presets.preferences import exo as exo
from unipost.presets.preferences import f_dpo as f_dpo
from unipost.presets.preferences import hinge as hinge
from unipost.presets.preferences import ipo as ipo
from unipost.presets.preferences import kto as kto
from unipost.presets.preferences import ld_dpo as ld_dpo
from unipost.presets.preferences import nca as nca
from unipost.presets.preferences import orpo as orpo
from unipost.presets.preferences import robust_dpo as robust_dpo
from unipost.presets.preferences import simpo as simpo
from unipost.presets.preferences import sppo as sppo
from unipost.presets.preferences import wpo as wpo
from unipost.presets.rewards import cispo as cispo
from unipost.presets.rewards import dapo as dapo
from unipost.presets.rewards import dr_grpo as dr_grpo
from unipost.presets.rewards import gmpo as gmpo
from unipost.presets.rewards import grpo as grpo
from unipost.presets.rewards import gspo as gspo
from unipost.presets.rewards import ppo as ppo
from unipost.presets.rewards import reinforce as reinforce
from unipost.presets.rewards import reinforce_pp as reinforce_pp
from unipost.presets.rewards import rloo as rloo
from unipost.presets.rewards import sapo as sapo
from unipost.presets.rewards import vespo as vespo
from unipost.vocabulary import Vocabulary
from unipost.vocabulary import gem as gem
from unipost.vocabulary import gkd as gkd

FAMILIES: dict[str, dict[str, Callable[..., Objective | Mixture | Vocabulary]]] = {
    "demonstrations": {
        "sft": sft,
        "f_sft": f_sft,
        "alpha_sft": alpha_sft,
        "dft": dft,
        "psft": psft,
        "iw_sft": iw_sft,
    },
    "preferences": {
        "dpo": dpo,
        "f_dpo": f_dpo,
        "ipo": ipo,
        "cdpo": cdpo,
        "robust_dpo": robust_dpo,
        "hinge": hinge,
        "chi_po": chi_po,
        "exo": exo,
        "discopop": discopop,
        "simpo": simpo,
        "nca": nca,
        "bco": bco,
        "sppo": sppo,
        "apo": apo,
        "aot": aot,
        "wpo": wpo,
        "ld_dpo": ld_dpo,
        "kto": kto,
        "orpo": orpo,
        "cpo": cpo,
    },
    "rewards": {
        "reinforce": reinforce,
        "rloo": rloo,
        "grpo": grpo,
        "dr_grpo": dr_grpo,
        "dapo": dapo,
        "reinforce_pp": reinforce_pp,
        "ppo": ppo,
        "gspo": gspo,
        "gmpo": gmpo,
        "cispo": cispo,
        "sapo": sapo,
        "vespo": vespo,
    },
    "off_policy": {
        "awr": awr,
        "opmd": opmd,
        "agro": agro,
        "copg": copg,
        "f_tb": f_tb,
        "topr": topr,
        "asymre": asymre,
        "tis": tis,
        "masked_is": masked_is,
        "decoupled_ppo": decoupled_ppo,
    },
    "mixing": {
        "luffy": luffy,
        "rl_sft": rl_sft,
        "srft": srft,
        "chord": chord,
        "chord_phi": chord_phi,
        "hpt": hpt,
        "relift": relift,
        "prefix_rft": prefix_rft,
    },
    "vocabulary": {"gem": gem, "gkd": gkd},
}

PRESETS = {name: make for family in FAMILIES.values() for name, make in family.items()}
