"""What results depend on in torch: versions, threads, modes and devices.

Only what is known already is asked: no device is initialised, since a process that has done so
can't be forked any more, and nothing is set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._device import DeviceContext

_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "MKL_CBWR",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Environment variables that change what torch computes, or where."""


def environment() -> dict[str, Any]:
    """Return everything as plain values; what this build of torch doesn't know is None."""
    return {name: _asked(ask) for name, ask in _QUESTIONS.items()}


def _asked(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception:  # a build may lack anything, and raises in its own way
        return None


def _cuda_is_available() -> bool | None:
    """Return None where only the driver could tell, which must not be woken."""
    if not torch.backends.cuda.is_built():
        return False
    return True if torch.cuda.is_initialized() else None


def _devices() -> list[dict[str, Any]]:
    """Describe the devices of the accelerators that are in use."""
    found = []
    for module in (torch.cuda, torch.xpu):
        if module.is_initialized():
            kind = module.__name__.rpartition(".")[2]
            for index in range(module.device_count()):
                found.append({"device": f"{kind}:{index}", **_of_device(module, index)})
    return found


def _of_device(module: Any, index: int) -> dict[str, Any]:
    properties = module.get_device_properties(index)
    found = {"name": properties.name, "memory": properties.total_memory}
    if hasattr(properties, "multi_processor_count"):
        found["processors"] = properties.multi_processor_count
    if module is torch.cuda:
        found["capability"] = f"{properties.major}.{properties.minor}"
    return found


def _driver() -> str | None:
    """Return the newest version of CUDA that the driver knows, once CUDA is in use."""
    if not torch.cuda.is_initialized():
        return None
    library: Any = torch._C
    version = library._cuda_getDriverVersion()
    return f"{version // 1000}.{version % 1000 // 10}"


def _default_device() -> str:
    """Return the default device as it was set, where torch's own answer would initialise it."""
    context = getattr(getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None)
    return str(context.device) if isinstance(context, DeviceContext) else "cpu"


def _attention() -> list[str]:
    """Return the kinds of kernels that scaled dot-product attention may choose."""
    backends: Any = torch.backends.cuda
    kinds = {
        "flash": backends.flash_sdp_enabled,
        "mem_efficient": backends.mem_efficient_sdp_enabled,
        "math": backends.math_sdp_enabled,
        "cudnn": backends.cudnn_sdp_enabled,
    }
    return [kind for kind, is_enabled in kinds.items() if is_enabled()]


def _precisions() -> dict[str, str]:
    """Return how single-precision numbers are multiplied: "ieee", "tf32", "bf16" or "none"."""
    backends: Any = torch.backends
    return {
        "cuda.matmul": backends.cuda.matmul.fp32_precision,
        "cudnn.conv": backends.cudnn.conv.fp32_precision,
        "cudnn.rnn": backends.cudnn.rnn.fp32_precision,
        "mkldnn.matmul": backends.mkldnn.matmul.fp32_precision,
        "mkldnn.conv": backends.mkldnn.conv.fp32_precision,
        "mkldnn.rnn": backends.mkldnn.rnn.fp32_precision,
    }


_QUESTIONS: Mapping[str, Callable[[], Any]] = {
    "version": lambda: str(torch.__version__),
    "git_version": lambda: torch.version.git_version,
    "cuda": lambda: torch.version.cuda,
    "rocm": lambda: torch.version.hip,
    "xpu": lambda: torch.version.xpu,
    "cudnn": torch.backends.cudnn.version,
    "cuda_available": _cuda_is_available,
    "cuda_driver": _driver,
    "devices": _devices,
    "cpu_capability": torch.backends.cpu.get_cpu_capability,
    "mkl": torch.backends.mkl.is_available,
    "mkldnn": torch.backends.mkldnn.is_available,
    "openmp": torch.backends.openmp.is_available,
    "num_threads": torch.get_num_threads,
    "num_interop_threads": torch.get_num_interop_threads,
    "default_dtype": lambda: str(torch.get_default_dtype()),
    "default_device": _default_device,
    "deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
    "deterministic_warn_only": torch.is_deterministic_algorithms_warn_only_enabled,
    "cudnn_enabled": lambda: torch.backends.cudnn.enabled,
    "cudnn_deterministic": lambda: torch.backends.cudnn.deterministic,
    "cudnn_benchmark": lambda: torch.backends.cudnn.benchmark,
    "float32_matmul_precision": torch.get_float32_matmul_precision,
    "fp32_precision": _precisions,
    "reduced_precision_fp16": (
        lambda: torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    ),
    "reduced_precision_bf16": (
        lambda: torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    ),
    "attention": _attention,
    "mha_fastpath": torch.backends.mha.get_fastpath_enabled,
    "variables": lambda: {name: os.environ[name] for name in _VARIABLES if name in os.environ},
}
"""What to ask, by the name under which a run's record has the answer."""
