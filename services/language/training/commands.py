"""`trivium export`: bundles from models that were brought along. Nothing here needs torch until a command runs."""

import sys
import tempfile
from pathlib import Path
from typing import Literal

import click

from services.kit.errors import StartupError
from services.kit.model_name import BUNDLE_NAME
from trivium.client.output import complain

PRECISIONS: dict[str, Literal["FP32", "FP16", "BF16"]] = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16"}


@click.group()
def export() -> None:
    """Turns models that were brought along into bundles."""


@export.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the bundle.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of bundles; OUT/NAME/VERSION is written."
)
@click.option(
    "--version", default=1, show_default=True, type=click.IntRange(1, 999_999_999), help="Version of the bundle."
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(list(PRECISIONS)),
    help="Of weights, products and caches. fp16 and bf16 are for GPUs; a CPU runs fp16, slowly, and no bf16.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    help="Tokens of a text at most. Unset: all that the model has positions for.",
)
@click.option("--force", is_flag=True, help="Replace OUT/NAME/VERSION if it is there.")
@click.option("--description", default="", help="What the model is, for callers that list models.")
def language(
    path: Path,
    name: str,
    out: Path,
    version: int,
    precision: str,
    max_tokens: int | None,
    force: bool,
    description: str,
) -> None:
    """Turns a Hugging Face checkpoint into a bundle.

    PATH is a folder with config.json, tokenizer.json and safetensors of a GPT-2, Llama, Qwen2 or Qwen3.
    """
    try:
        _check_name(name)
        _check_place(out / name / str(version), force)
        bundle = _exported(path, name, out, version, precision, max_tokens, description)
    except StartupError as error:
        complain(str(error), error.hint)
        sys.exit(1)
    where = " on a GPU" if precision == "bf16" else ""
    click.echo(f"{bundle}: written; serve it{where} with TRIVIUM_LANGUAGE__BUNDLES_DIR={out.resolve()}")


def _check_name(name: str) -> None:
    if not BUNDLE_NAME.fullmatch(name):
        raise StartupError(f"{name!r} is no name for a bundle", hint=f"names match {BUNDLE_NAME.pattern}")


def _check_place(place: Path, force: bool) -> None:
    """Finds out before the work whether its result may be left there."""
    try:
        taken = place.exists()
        above = next(folder for folder in place.parents if folder.exists())
        with tempfile.TemporaryDirectory(prefix=".", dir=above):
            pass  # modes alone do not say who may write where
    except OSError as error:
        raise StartupError(
            f"{place} cannot be written: {error.strerror}", hint="name a folder that can be written with --out"
        ) from error
    if taken and not force:
        raise StartupError(f"{place} is there already", hint="give another --version, or --force to replace it")


def _exported(
    path: Path, name: str, out: Path, version: int, precision: str, max_tokens: int | None, description: str
) -> Path:
    if not path.is_dir():
        raise StartupError(f"{path} is no folder", hint="it is the folder of a checkpoint, with its config.json")
    try:
        from services.language.training.checkpoint import export_checkpoint  # torch takes seconds to import
    except ImportError as error:
        raise StartupError(
            f"the libraries that export models are not installed: {error}",
            hint="deploy/local/setup train installs them",
        ) from error
    return export_checkpoint(
        path,
        out,
        name,
        version=version,
        precision=PRECISIONS[precision],
        max_tokens=max_tokens,
        description=description,
    ).path
