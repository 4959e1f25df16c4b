# %% [markdown]
# # First steps
#
# This tutorial creates a GLNet, runs it on images of any size, extracts feature maps, and changes the slot grid. The
# network has random weights; [Models](../models.md#weights) describes where to get pretrained weights.

# %%
import timm
import torch

import glmix  # registers the models with timm

model = timm.create_model("glnet_nano", num_classes=10).eval()
print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters")

# %% [markdown]
# ## Logits for images of any size
#
# Height and width can be any sizes from 32, not only multiples of 32.

# %%
with torch.inference_mode():
    for size in [(224, 224), (97, 130), (32, 320)]:
        print(size, "->", tuple(model(torch.randn(2, 3, *size)).shape))

# %% [markdown]
# ## Feature maps
#
# As with every timm model, `features_only=True` returns a backbone, and `out_indices` selects its stages.

# %%
backbone = timm.create_model("glnet_nano", features_only=True, out_indices=(1, 2, 3)).eval()
with torch.inference_mode():
    maps = backbone(torch.randn(1, 3, 224, 320))
for features, stride in zip(maps, backbone.feature_info.reduction(), strict=True):
    print(f"stride {stride}: {tuple(features.shape)}")

# %% [markdown]
# ## Preprocessing
#
# The configuration of a model contains the size, mean and standard deviation of its input images. This example uses a
# generated image; for your own, use `Image.open("photo.jpg")`.

# %%
from PIL import Image

from glmix.data import SceneConfig, draw_scene

image = Image.fromarray(draw_scene(SceneConfig(size=256), "test", 3).image)
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
with torch.inference_mode():
    probabilities = model(transform(image)[None]).softmax(1)
print(probabilities.shape, f"sum {probabilities.sum():.3f}")
image

# %% [markdown]
# ## Slots
#
# Each block with slots groups the pixels into 64 slots, whose seeds form an 8 x 8 grid. The grid can be changed after
# training, for example for wide or large images.

# %%
from glmix.slots import slot_maps

pixels = transform(image)[None]
for grid in [8, (4, 12)]:
    model.set_slot_grid(grid)
    block = slot_maps(model, pixels, [0])[0]
    print(f"{block.name}: {block.slot_grid} slots, assignment {tuple(block.assignment.shape)}")

# %% [markdown]
# ## Padding
#
# Images of different sizes are padded to one batch. A mask is true for the pixels of each image. With the mask, the
# result for an image does not depend on the padding.

# %%
small = torch.randn(1, 3, 96, 128)
batch = torch.zeros(1, 3, 160, 192)
batch[:, :, :96, :128] = small
mask = torch.zeros(1, 160, 192, dtype=torch.bool)
mask[:, :96, :128] = True
model.set_slot_grid(8)
with torch.inference_mode():
    alone = model.forward_features(small)
    padded = model.forward_features(batch, mask)[:, :, : alone.shape[2], : alone.shape[3]]
    unmasked = model.forward_features(batch)[:, :, : alone.shape[2], : alone.shape[3]]
print(f"largest difference with the mask:    {(padded - alone).abs().max():.1e}")
print(f"largest difference without the mask: {(unmasked - alone).abs().max():.1e}")

# %% [markdown]
# ## Faster inference
#
# `optimize_for_inference` fuses layers, and selects the memory format and dtype for the machine. In float32, the
# results are the same up to rounding.

# %%
fast = glmix.optimize_for_inference(model, dtype=torch.float32, compile=False)
with torch.inference_mode():
    print(f"largest difference {(fast(pixels) - model(pixels)).abs().max():.1e}")

# %% [markdown]
# Next: [fine-tune a model on your own photographs](fine_tune.ipynb).
