# %% [markdown]
# # Visualise slots
#
# This tutorial trains a small network with image labels only, and shows which pixels its slots group together.

# %%
# !glmix fit --config classification/scenes/single --data.scenes.size 48 --data.train_count 1500 --data.val_count 200 \
#     --trainer.max_epochs 5 --model.schedule.warmup_epochs 1 --trainer.default_root_dir out/start \
#     --logger csv

# %%
from PIL import Image

import glmix
from glmix.data import SceneConfig, draw_scene
from glmix.data.classification.views import model_input

model = glmix.load("out/start/checkpoints/best.ckpt").network
image = Image.fromarray(draw_scene(SceneConfig(size=48, objects=(2, 2)), "test", 11).image)
image.resize((240, 240))

# %% [markdown]
# ## Maps of the slots
#
# The assignment has the weight of each slot in each pixel. For each pixel, the weights sum to one over the slots.

# %%
from glmix.slots import slot_maps
from glmix.slots.measures import effective_slots_per_pixel

maps = slot_maps(model, model_input(image, model)[None])
for block in maps:
    number = effective_slots_per_pixel(block.assignment).mean()
    print(f"block {block.index}: grid {block.grid}, {number:.1f} of {len(block.assignment[0])} slots per pixel")

# %% [markdown]
# ## A figure
#
# Left: the maps of all slots. Middle: the image weighted by the map of each representative slot. Right: the strongest
# slot of each pixel, and the effective number of slots per pixel. [Visualising slots](../slots.md#how-to-read-a-figure)
# explains the parts.

# %%
from glmix.slots.figure.draw import Column, slot_figure

figure = slot_figure(image, [Column("trained", [maps[1]])], title="two objects")
figure.savefig("slots.png", dpi=60)
Image.open("slots.png")

# %% [markdown]
# ## Compared with random weights
#
# Seeds are pooled from the image, so even a network with random weights groups similar pixels. The effective number of
# slots per pixel shows how distinct the groups are, before and after training.

# %%
import timm
import torch

torch.manual_seed(0)
untrained = timm.create_model("test_glnet", num_classes=6, depths=(1, 1, 1, 1)).eval()
for name, network in [("trained", model), ("untrained", untrained)]:
    found = slot_maps(network, model_input(image, model)[None])
    print(name, [round(float(effective_slots_per_pixel(block.assignment).mean()), 1) for block in found])

# %% [markdown]
# ## The explorer
#
# The explorer is an interactive page, one HTML file, that shows all slots of all blocks. [The gallery](../gallery.md)
# contains an example. `glmix explain photo.jpg --checkpoint best.ckpt --html -o slots` writes such a page for an image.

# %%
from pathlib import Path

from glmix.slots.explorer import write_page

names = SceneConfig().class_names
write_page("explorer.html", image, [("trained", model)], title="two objects", label_names=names.__getitem__)
print(f"{Path('explorer.html').stat().st_size / 1000:.0f} kB")

# %% [markdown]
# Next: [Grouping scores](../slot-scores.md) measures how well slots match objects. [Segmentation from image
# labels](../weak_segmentation.md) makes masks from slots.
