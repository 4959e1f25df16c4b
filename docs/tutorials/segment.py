# %% [markdown]
# # Segment with and without masks
#
# First UPerNet, which learns from masks. Then a network that learns from image labels only: which classes an image
# shows, but not where. Both see the same 240 generated images for a few epochs;
# [Semantic segmentation](../segmentation.md) and [Segmentation from image labels](../weak_segmentation.md) have the
# results of complete trainings.

# %%
# !glmix scenes own --layout voc --count-train 240 --count-val 40 \
#     --shapes disc --objects 1 2 --camouflage 0
# !ls own && cat own/classes.txt

# %% [markdown]
# The folder has the layout of Pascal VOC: images in `JPEGImages`, masks with the same names in `SegmentationClass`, and
# each pixel of a mask is the number of its class. [Images and masks](../segmentation.md#images-and-masks) lists other
# layouts.
#
# ## Train with masks
#
# The recipe has a small GLNet with UPerNet as its decoder. The options replace its data, which are generated too, by
# the folder; with your own photographs and ImageNet weights, start from the recipe `segmentation/finetune/masks`.

# %%
# !glmix fit --config segmentation/scenes/segmentation_upernet --data MaskData \
#     --data.source.root own --data.source.layout voc --data.transforms.resize null \
#     --data.transforms.scale '[1,1]' --data.transforms.crop 64 --data.transforms.photometric 0 \
#     --data.batch_size 8 --data.num_workers 0 --trainer.max_epochs 4 \
#     --trainer.default_root_dir out/upernet --logger csv

# %% [markdown]
# The mean IoU is the mean over the classes of the intersection over union of prediction and ground truth. After each
# epoch, it was measured in the 40 validation images:

# %%
import csv
from pathlib import Path

with Path("out/upernet/logs/csv/version_0/metrics.csv").open() as file:
    rows = list(csv.DictReader(file))
print([f"{float(row['val/mIoU']):.1%}" for row in rows if row["val/mIoU"]])

# %% [markdown]
# ## Train from image labels only
#
# The steps need a configuration, here of a small network. Only the image labels of the 240 training images are used:
# the masks of the folder serve to measure.

# %%
_ = Path("weak.yaml").write_text("""
out: out/weak
data:
  source: {root: own, layout: voc}
  held_out: 40  # training images that choose the background threshold
  transforms: {resize: null, scale: [1.0, 1.0], crop: 64, photometric: 0.0}
  turns: true
classifier:
  model: test_glnet
  model_args: {depths: [2, 1, 1, 1], output_stride: 8, mixers: [glmix, glmix, glmix, glmix]}
  recipe: {epochs: 8}
  batch_size: 16
seeds: {method: slotcut, blocks: [0, 1]}
segmenter:
  decoder: fpn
  decoder_args: {decoder_pyramid_channels: 64, decoder_segmentation_channels: 32}
  recipe: {epochs: 3}
  batch_size: 8
""")

# %% [markdown]
# `fit` trains a classifier. `seeds` computes where each class is, from the class activation maps and the slots of the
# classifier, and writes a pseudo mask for each training image. `evaluate` trains a segmentation network on the pseudo
# masks, and measures everything by the ground truth.

# %%
# !glmix weakseg fit --config weak.yaml
# !glmix weakseg seeds --config weak.yaml
# !glmix weakseg evaluate --config weak.yaml

# %% [markdown]
# In the table, `seeds` and `segmenter` are for the 40 validation images, so `segmenter` compares with the mean IoU of
# UPerNet. The seeds of an image also use its image labels, which the segmenter does not know.
#
# The pseudo masks of six training images:

# %%
import numpy as np
from PIL import Image

from glmix.drawing import palette_image

classes = Path("own/classes.txt").read_text().split()


def read_masks(folder, names):
    """Open masks, with the same colours for all."""
    return [palette_image(np.array(Image.open(f"{folder}/SegmentationClass/{name}.png")), classes) for name in names]


def sheet(rows):
    """Draw rows of images."""
    picture = Image.new("RGB", (128 * len(rows[0]), 128 * len(rows)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            image = image.convert("RGB").resize((128, 128), Image.Resampling.NEAREST)
            picture.paste(image, (128 * x, 128 * y))
    return picture


names = Path("own/ImageSets/Segmentation/train.txt").read_text().split()[:6]
images = [Image.open(f"own/JPEGImages/{name}.jpg") for name in names]
pseudo = read_masks("out/weak/seeds/slotcut", names)
sheet([images, read_masks("own", names), pseudo])  # image, ground truth, pseudo mask

# %% [markdown]
# Where the seeds take the background for an object, the mask is the wrong part of the image.
#
# ## Segment images
#
# Both networks, on validation images. After these few epochs, they find the objects better than they tell the two
# textures, which are the classes, apart.

# %%
from glmix.tasks.segmentation import SegmentationPredictor

with_masks = SegmentationPredictor.from_checkpoint("out/upernet/checkpoints/best.ckpt")
from_labels = SegmentationPredictor.from_checkpoint("out/weak/segmenter/slotcut/segmenter.ckpt")
names = Path("own/ImageSets/Segmentation/val.txt").read_text().split()[:6]
images = [Image.open(f"own/JPEGImages/{name}.jpg") for name in names]
for row in with_masks(images[0]).classes():
    print(row)

# %%
predictions = [[network(image).mask() for image in images] for network in (with_masks, from_labels)]
sheet([images, read_masks("own", names), *predictions])  # image, ground truth, UPerNet, network from labels

# %% [markdown]
# `glmix segment photos --checkpoint best.ckpt -o out/masks` does this for files, with either checkpoint.
# [Segmentation from image labels](../weak_segmentation.md) has the commands for your own photographs without masks.
