"""The model that is measured: a Llama with random weights, as a bundle, for transformers and for onnxruntime-genai."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from services.kit.training.digest import training_digest
from tests.bench.facts import ROOT

NAME = "bench-llama"
SHAPE: dict[str, Any] = {
    "vocab": 8192, "width": 384, "layers": 6, "heads": 6, "kv_heads": 3, "head_dim": 64, "hidden": 1024,
    "max_tokens": 512, "tied": False,
}  # fmt: skip
SPREAD = 1.4  # of the weights, as a multiple of what keeps numbers as large as they are: so that texts vary
CACHE = ROOT / ".cache" / "bench"
# A virtual environment of its own for each device: its libraries are not those of the suite.
GENAI: dict[str, Path] = {"cpu": CACHE / "genai", "cuda": CACHE / "genai-cuda"}
GENAI_VERSION = "0.18.0"
SOURCES = ROOT / "services" / "language" / "training"


@dataclass(frozen=True, slots=True)
class Files:
    """Where the model lies in its three forms."""

    folder: Path

    @property
    def bundles(self) -> Path:
        """A folder of bundles with this one."""
        return self.folder / "bundles"

    @property
    def checkpoint(self) -> Path:
        """As transformers reads it."""
        return self.folder / "checkpoint"

    @property
    def genai(self) -> Path:
        """As onnxruntime-genai reads it; there may be none."""
        return self.folder / "genai"


def made(precision: Literal["FP32", "FP16"] = "FP32") -> Files:
    """The model; made once, and again when what makes it has changed.

    Args:
        precision: of the bundle.
    """
    sources = [Path(__file__), *(path for path in sorted(SOURCES.glob("*.py")) if _exports(path))]
    words = SHAPE | {"spread": SPREAD, "precision": precision}
    digest = training_digest(words, sources, (), ("torch", "onnx", "onnxscript", "transformers"))
    files = Files(CACHE / digest)
    if not files.folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            new = Files(Path(name))
            _make(new, precision)
            with contextlib.suppress(OSError):  # another process was quicker
                shutil.copytree(new.folder, files.folder)
    return files


def genai_python(device: str = "cpu") -> Path | None:
    """The interpreter that has onnxruntime-genai for cpu or cuda; None where it cannot be had."""
    python = GENAI[device] / "bin" / "python"
    with contextlib.suppress(subprocess.CalledProcessError, OSError):
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", GENAI[device]], check=True, capture_output=True)
        check: list[str | Path] = [python, "-c", "import onnxruntime_genai"]
        if subprocess.run(check, capture_output=True, check=False).returncode:
            packages = (
                (f"onnxruntime-genai-cuda=={GENAI_VERSION}", f"onnxruntime-gpu[cuda,cudnn]=={_runtime()}")
                if device == "cuda"
                else (f"onnxruntime-genai=={GENAI_VERSION}", f"onnxruntime=={_runtime()}")
            )
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, capture_output=True)
            subprocess.run(check, check=True, capture_output=True)
        return python
    return None


def make_genai(checkpoint: Path, folder: Path, device: str = "cpu") -> bool:
    """Builds onnxruntime-genai's form of a checkpoint with its own builder; whether there is one then.

    For cuda it has float16. Its steps are no CUDA graphs: with `enable_cuda_graph` it reads one prompt at a time only.
    """
    if (folder / "genai_config.json").exists():
        return True
    builder = next(GENAI[device].glob("lib/python*/site-packages/onnxruntime_genai/models/builder.py"), None)
    if builder is None:
        return False
    precision = "fp16" if device == "cuda" else "fp32"
    command: list[str | Path] = [sys.executable, builder, "-i", checkpoint, "-o", folder, "-p", precision]
    command += ["-e", device, "-c", folder.with_name("builder"), "--extra_options", "hf_token=false"]
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run(command, check=True, capture_output=True)
    return (folder / "genai_config.json").exists()


def _exports(path: Path) -> bool:
    names = (
        "layers decoder nodes sampler decoder_graph traced branches sampler_graph graph "
        "model_file graph_run graph_check known export"
    )
    return path.stem in names.split()


def _runtime() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _make(files: Files, precision: Literal["FP32", "FP16"]) -> None:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        network = _network()
    characters = _tokenizer()
    _write_checkpoint(files.checkpoint, network, characters)
    _write_bundle(files.bundles, network, characters, precision)


def _network() -> Any:
    from torch import nn

    from services.language.training.decoder import Decoder, DecoderConfig

    network = Decoder(DecoderConfig(**SHAPE)).eval()
    nn.init.normal_(network.tokens.weight)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=SPREAD / module.in_features**0.5)
    return network


def _write_bundle(folder: Path, network: Any, characters: Any, precision: Literal["FP32", "FP16"]) -> None:
    from services.language.training.export import export, write
    from services.language.training.graph import describe

    end = characters.token_to_id("<end>")
    write(
        folder,
        NAME,
        export(network, precision=precision),
        describe(network, end=(end,), precision=precision),
        characters.to_str().encode(),
        description="A Llama with random weights.",
    )


def _write_checkpoint(folder: Path, network: Any, characters: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config, end = network.config, characters.token_to_id("<end>")
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab,
            hidden_size=config.width,
            intermediate_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_tokens,
            rms_norm_eps=config.norm_epsilon,
            tie_word_embeddings=config.tied,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
        )
    )
    llama.load_state_dict(dict(_renamed(network)))
    llama.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=characters, eos_token="<end>", pad_token="<end>").save_pretrained(folder)


def _renamed(network: Any) -> Iterator[tuple[str, Any]]:
    """The weights by the names that transformers has for them."""
    yield "model.embed_tokens.weight", network.tokens.weight
    yield "model.norm.weight", network.norm.weight
    yield "lm_head.weight", network.head.weight
    config = network.config
    sizes = [heads * config.head_dim for heads in (config.heads, config.kv_heads, config.kv_heads)]
    for number, layer in enumerate(network.layers):
        own = f"model.layers.{number}"
        yield f"{own}.input_layernorm.weight", layer.attention_norm.weight
        yield f"{own}.post_attention_layernorm.weight", layer.mlp_norm.weight
        for name, part in zip("qkv", layer.attention.qkv.weight.split(sizes), strict=True):
            yield f"{own}.self_attn.{name}_proj.weight", part
        yield f"{own}.self_attn.o_proj.weight", layer.attention.output.weight
        for name, part in zip(("gate", "up"), layer.mlp.up.weight.chunk(2), strict=True):
            yield f"{own}.mlp.{name}_proj.weight", part
        yield f"{own}.mlp.down_proj.weight", layer.mlp.down.weight


def _tokenizer() -> Any:
    """Byte-level, of the library `tokenizers`: the bytes, pieces of two and three letters, and an end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = [chr(ord("a") + number) for number in range(26)]
    pairs = [(first, second) for first in ("Ġ", *letters) for second in letters]
    triples = [("".join(pair), letter) for letter in letters for pair in pairs]
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [*pairs, *triples][: SHAPE["vocab"] - len(bytes_) - 1]
    pieces = [*bytes_, *map("".join, merges)]
    found = Tokenizer(models.BPE({piece: token for token, piece in enumerate(pieces)}, merges))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens(["<end>"])
    return found


if __name__ == "__main__":
    files = made()
    print(
        json.dumps(
            {"folder": str(files.folder), "genai": bool(genai_python()) and make_genai(files.checkpoint, files.genai)}
        )
    )
