"""Models, weights and adapters in the layouts of Hugging Face, in and out."""

from unipost.hf.export import named_tensors as named_tensors
from unipost.hf.export import save_pretrained as save_pretrained
from unipost.hf.load import Pretrained as Pretrained
from unipost.hf.load import load_pretrained as load_pretrained
from unipost.hf.load import read_generation as read_generation
from unipost.hf.peft import load_adapter as load_adapter
from unipost.hf.peft import save_adapter as save_adapter
