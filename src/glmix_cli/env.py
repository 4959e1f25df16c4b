"""`glmix env`: print the library versions and the hardware for a bug report."""

import argparse
import json

HELP = "Print the versions of the libraries, the processor and the GPU for a bug report."

LIBRARIES = (
    *("torch", "torchvision", "timm", "safetensors", "numpy", "pillow", "lightning", "torchmetrics", "torchdata"),
    *("jsonargparse", "peft", "segmentation-models-pytorch", "transformers", "faster-coco-eval", "scikit-image"),
    *("scikit-learn", "scipy", "onnx", "onnxscript", "onnxruntime", "openvino", "pyarrow", "datasets", "webdataset"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    import torch

    from glmix.bench.machine import describe_machine, versions
    from glmix.deploy import can_compile

    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {
        "machine": {**describe_machine(device, torch.get_num_threads()), "compiler": can_compile(device)},
        "versions": versions(LIBRARIES),
    }
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    for section in found.values():
        for name, value in section.items():
            print(f"{name:<28}{value}")
    return 0
