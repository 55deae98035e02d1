"""TRL and transformers at the shape of ../torch_shapes.py; needs torch and trl.

    python benchmarks/peers/torch_shapes.py [--repeats 9] [--only sft] [--json out.json]

    sft          8 x 256 tokens through SFTTrainer.compute_loss (fused LM head)
    sft_logits   the same through logits and cross entropy, without TRL
    dpo          4 pairs of 64 + 192, reference forward included, DPOTrainer
    dpo_precomp  the same with the reference's log-probs given
    grpo_loss    8 rows of 64 + 192, old and reference given, GRPOTrainer (dapo)
    logps        forward only: log-probs and entropy of 8 x 256 tokens
    gen8, gen64  `generate`: so many rows of 128 tokens after a prompt of 32

Nothing is downloaded: the model is random, the tokenizer made here. A step is loss,
backward, clipping by the global norm and AdamW.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ACCELERATE_USE_CPU": "true",
}
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
