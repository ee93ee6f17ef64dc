"""Gpu: the name of the card and the version of its driver."""

import ctypes
from collections.abc import Callable


def describe(index: int = 0) -> str:
    """For example "NVIDIA H100 80GB HBM3, driver 570.86.15"; asked of NVML, which comes with the driver."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "a GPU whose driver has no NVML"
    name, driver, handle = ctypes.create_string_buffer(96), ctypes.create_string_buffer(81), ctypes.c_void_p()
    calls: tuple[Callable[[], int], ...] = (
        lambda: nvml.nvmlInit_v2(),
        lambda: nvml.nvmlSystemGetDriverVersion(driver, len(driver)),
        lambda: nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)),
        lambda: nvml.nvmlDeviceGetName(handle, name, len(name)),
    )
    failed = next((code for call in calls if (code := call())), 0)
    return f"a GPU; NVML error {failed}" if failed else f"{name.value.decode()}, driver {driver.value.decode()}"
