"""Chat templates in the styles of published ones, on the tiny Qwen2 tokenizer."""

from functools import cache
from pathlib import Path

from unipost.tokenizer import PretrainedTokenizer, load_tokenizer

FOLDER = Path(__file__).parent / "fixtures" / "hf_models" / "tiny_qwen2_policy"

LLAMA3 = """\
{%- for message in messages %}
{%- if loop.first %}{{- bos_token }}{%- endif %}
{{- '<|header|>' + message['role'] + '<|/header|>\\n\\n' }}
{{- message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|header|>assistant<|/header|>\\n\\n' }}
{%- endif %}"""

GEMMA = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
{{- raise_exception('System role\\nnot supported') }}
{%- endif %}
{%- for message in messages %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<turn>' + role + '\\n' + message['content'] | trim + '</turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<turn>model\\n' }}{%- endif %}"""

MARKED = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{- message['content'] + '<|im_end|>' }}{%- endgeneration %}
{%- else %}{{- message['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

OPEN = """\
{%- for message in messages %}{{- message['role'] + 's' + message['content'] }}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistants' }}{%- endif %}"""
"""No special token at all, and a header that ends in a letter."""

THINKING = """\
{%- for message in messages %}
{%- set text = message['content'].split('</think>') | last %}
{{- '<|im_start|>' + message['role'] + '\\n' + text + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>' }}{%- endif %}"""
"""Opens a thought in the header, and leaves thoughts out of the conversation."""

TOOLS = """\
{%- if tools %}
{{- '<|im_start|>tools\\n' + (tools | tojson) + '<|im_end|>' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] }}
{%- if message.tool_calls %}{{- message.tool_calls | tojson }}{%- endif %}
{{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

PHI = """\
{%- for message in messages %}
{{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor %}
{{- '<|assistant|>\\n' if add_generation_prompt else '<|eot|>' }}"""
"""Ends a turn, and then the whole conversation, with different tokens."""

CHATML = (FOLDER / "chat_template.jinja").read_text()
STYLES = {
    "chatml": (CHATML, ()),
    "llama3": (LLAMA3, ("<|header|>", "<|/header|>", "<|eot|>")),
    "gemma": (GEMMA, ("<turn>", "</turn>")),
    "marked": (MARKED, ()),
    "phi": (PHI, ("<|user|>", "<|assistant|>", "<|end|>", "<|eot|>")),
    "open": (OPEN, ()),
    "thinking": (THINKING, ()),
    "tools": (TOOLS, ()),
}


@cache
def styled(name: str) -> PretrainedTokenizer:
    """The tiny tokenizer with another template and its special tokens."""
    template, tokens = STYLES[name]
    tokenizer = load_tokenizer(FOLDER)
    assert isinstance(tokenizer, PretrainedTokenizer)
    tokenizer.backend.add_special_tokens({"additional_special_tokens": [*tokens]})
    tokenizer.backend.chat_template = template
    if "<|eot|>" in tokens:
        tokenizer.backend.eos_token = "<|eot|>"
    return tokenizer


def turns(*contents: str, first: str = "user") -> list[dict[str, str]]:
    """Turns of user and assistant in alternation, from `first` on."""
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [
        {"role": roles[i % 2], "content": content} for i, content in enumerate(contents)
    ]
