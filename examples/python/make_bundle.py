"""Makes a bundle of an ONNX image classifier: python examples/python/make_bundle.py MODEL.onnx FOLDER NAME CLASS...

To be run in a checkout (.venv/bin/python). The model takes FP32 [batch, 3, height, width] with pixels in [0, 1] and
gives one score a class; change the manifest below for anything else. FOLDER is what BUNDLES_DIR names.
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime as ort

from services.kit.inference import bundle
from services.kit.inference.manifest import ImagePreprocessing, Manifest, Postprocessing, TensorSpec

TAKEN = "FP32 [batch, 3, height, width]"


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes a bundle of an ONNX image classifier.")
    parser.add_argument("model", type=Path, help=f"the ONNX file: {TAKEN} in, a score for each class out")
    parser.add_argument("folder", type=Path, help="what BUNDLES_DIR names; the bundle becomes FOLDER/NAME/1")
    parser.add_argument("name")
    parser.add_argument("classes", nargs="+", help="in the order of the scores")
    given = parser.parse_args()
    path, folder, name, classes = given.model, given.folder, given.name, given.classes
    try:
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes share no other base
        parser.error(f"{path} cannot be loaded: {error}")
    (image, *more), scores = session.get_inputs(), session.get_outputs()[0]
    if more or isinstance(image.shape[0], int) or len(scores.shape) != 2:
        parser.error(f"{path} must take one tensor, of any number of images, and give scores [batch, classes]")
    known = len(image.shape) == 4 and image.shape[1] == 3 and all(isinstance(size, int) for size in image.shape[2:])
    if image.type != "tensor(float)" or not known:
        parser.error(
            f"{path} takes {image.type} {image.shape}, and this script knows {TAKEN} with sizes that are given"
        )
    if isinstance(scores.shape[-1], int) and scores.shape[-1] != len(classes):
        parser.error(f"{path} gives scores {scores.shape}, and {len(classes)} classes are named")
    height, width = image.shape[2:]
    manifest = Manifest(
        format=1,
        service="vision",
        task="image-classification",
        description=f"Tells {', '.join(classes)} apart.",
        inputs=(TensorSpec(image.name, "FP32", (-1, 3, height, width)),),
        outputs=(TensorSpec(scores.name, "FP32", (-1, len(classes))),),
        max_batch=16,
        opset=21,
        files={},  # filled in when the bundle is written
        classes=tuple(classes),
        preprocessing=ImagePreprocessing(
            input=image.name, width=width, height=height, channels="rgb", layout="NCHW", datatype="FP32", scale=1 / 255
        ),
        postprocessing=Postprocessing(scores=scores.name, softmax=True),
    )
    example = np.random.default_rng(0).random((2, 3, height, width), np.float32)
    answers = session.run([scores.name], {image.name: example})[0]
    made = bundle.write(
        folder,
        name,
        version=1,
        model=path.read_bytes(),
        manifest=manifest,
        inputs={image.name: example},
        outputs={scores.name: answers},
    )
    print(f"wrote {made.path}; serve it with TRIVIUM_VISION__BUNDLES_DIR={folder.resolve()} make run")


if __name__ == "__main__":
    main()
