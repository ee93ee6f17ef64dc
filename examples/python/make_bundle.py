"""Makes a bundle of an ONNX image classifier: python examples/python/make_bundle.py MODEL.onnx FOLDER NAME CLASS...

To be run in a checkout (.venv/bin/python). The model takes FP32 [batch, 3, height, width] with pixels in [0, 1] and
gives one score a class; change the manifest below for anything else. FOLDER is what BUNDLES_DIR names.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

from services.kit.inference import bundle
from services.kit.inference.manifest import ImagePreprocessing, Manifest, Postprocessing, TensorSpec


def main() -> None:
    path, folder, name, *classes = sys.argv[1:]
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    image, scores = session.get_inputs()[0], session.get_outputs()[0]
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
        Path(folder),
        name,
        version=1,
        model=Path(path).read_bytes(),
        manifest=manifest,
        inputs={image.name: example},
        outputs={scores.name: answers},
    )
    print(f"wrote {made.path}; serve it with TRIVIUM_VISION__BUNDLES_DIR={Path(folder).resolve()} make run")


if __name__ == "__main__":
    main()
