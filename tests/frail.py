"""A bundle that writes texts and whose runs fail as soon as one of their rows has a certain token."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from services.kit.inference import bundle as bundles
from services.language.graph import TOKEN_IDS
from tests.language_bundles import tiny, tokenizer

CHARACTERS = "#$%&*+/;<=>?@^~"


def frail(folder: Path, name: str = "frail") -> str:
    """A "gpt" that cannot compute one character, in `folder`/NAME/1; which character that is."""
    bundle = bundles.load(tiny("gpt"))
    inputs, outputs = bundles.known_answers(bundle)
    tokens = {character: tokenizer().encode(character).ids[0] for character in CHARACTERS}
    character = next(found for found, token in tokens.items() if token not in inputs[TOKEN_IDS])
    model = onnx.load(bundle.path / bundles.MODEL)
    _refuse(model.graph, tokens[character])
    files = {file: (bundle.path / file).read_bytes() for file in ("tokenizer.json",)}
    bundles.write(
        folder,
        name,
        1,
        model=model.SerializeToString(),
        manifest=bundle.manifest,
        inputs=inputs,
        outputs=outputs,
        files=files,
    )
    return character


def _refuse(graph: onnx.GraphProto, token: int) -> None:
    """Adds to each token what lies at 0 in a list of one zero; for that one token, what lies behind its end."""
    for node in graph.node:
        for at, name in enumerate(node.input):
            if name == TOKEN_IDS:
                node.input[at] = "frail_ids"
    constants = {"token": np.int64(token), "inside": np.int64(0), "outside": np.int64(9), "zero": np.zeros(1, np.int64)}
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), f"frail_{name}") for name, value in constants.items()
    )
    nodes = [
        helper.make_node("Equal", [TOKEN_IDS, "frail_token"], ["frail_found"]),
        helper.make_node("Where", ["frail_found", "frail_outside", "frail_inside"], ["frail_places"]),
        helper.make_node("Gather", ["frail_zero", "frail_places"], ["frail_zeros"]),
        helper.make_node("Add", [TOKEN_IDS, "frail_zeros"], ["frail_ids"]),
    ]
    for node in reversed(nodes):
        graph.node.insert(0, node)
