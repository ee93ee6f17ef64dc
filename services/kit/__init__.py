"""What every process shares; it knows no service by name."""

import os

# ONNX Runtime's wheels report to their maker, from the import on, and keep an identifier of the machine in HOME. No
# process of ours does unless its environment says so, which is why this stands before everything that could import it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
