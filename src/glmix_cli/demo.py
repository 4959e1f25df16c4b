import argparse

HELP = "Create a model, classify a generated image and say what was done."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="glnet_nano", help="which model to create (default: glnet_nano)")


def run(args: argparse.Namespace) -> int:
    import time

    import timm
    import torch

    import glmix
    from glmix.bench import count_macs

    torch.manual_seed(0)
    model = timm.create_model(args.model).eval()
    _, height, width = model.pretrained_cfg["input_size"]
    ys, xs = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    disc = (ys**2 + xs**2 < 0.4).float()
    image = torch.stack([disc, xs, ys]).unsqueeze(0)  # a disc on a colour gradient
    start = time.perf_counter()
    with torch.inference_mode():
        probabilities = model(image).softmax(1)
    seconds = time.perf_counter() - start
    print(f"glmix {glmix.__version__}, torch {torch.__version__}, timm {timm.__version__}")
    print(f"created    {args.model}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")
    print(f"classified one {height} x {width} image in {1000 * seconds:.0f} ms: {count_macs(model) / 1e9:.2f} GMACs")
    best = probabilities.max(1)
    print(f"predicted  class {best.indices.item()} at {best.values.item():.2%}: a guess, as the weights are random")
    print("next       `glmix models` lists the family; `glmix convert --help` tells how to use the authors' weights")
    return 0
