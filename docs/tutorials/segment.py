# %% [markdown]
# # Segment with and without masks
#
# This tutorial trains two segmentation networks: UPerNet with masks, and a network from image labels only, which name
# the classes in an image but not their positions. Both are trained on the same 240 generated images for a few epochs.
# [Semantic segmentation](../segmentation.md) and [Segmentation from image labels](../weak_segmentation.md) have results
# of complete training runs.

# %%
# !glmix scenes own --layout voc --count-train 240 --count-val 40 \
#     --shapes disc --objects 1 2 --camouflage 0
# !ls own && cat own/classes.txt

# %% [markdown]
# The folder has the layout of Pascal VOC: images in `JPEGImages` and masks with the same names in `SegmentationClass`.
# Each pixel of a mask is a class id. [Images and masks](../segmentation.md#images-and-masks) lists other layouts.
#
# ## Train with masks
#
# The recipe trains a small GLNet with the decoder UPerNet on generated images. The options replace these images by the
# folder. For your own photographs and ImageNet weights, use the recipe `segmentation/finetune/masks`.

# %%
# !glmix fit --config segmentation/scenes/segmentation_upernet --data MaskData \
#     --data.source.root own --data.source.layout voc --data.transforms.resize null \
#     --data.transforms.scale '[1,1]' --data.transforms.crop 64 --data.transforms.photometric 0 \
#     --data.batch_size 8 --data.num_workers 0 --trainer.max_epochs 4 \
#     --trainer.default_root_dir out/upernet --logger csv

# %% [markdown]
# The mean IoU is the intersection over union of prediction and ground truth, averaged over the classes. These are its
# values on the 40 validation images after each epoch:

# %%
import csv
from pathlib import Path

with Path("out/upernet/logs/csv/version_0/metrics.csv").open() as file:
    rows = list(csv.DictReader(file))
print([f"{float(row['val/mIoU']):.1%}" for row in rows if row["val/mIoU"]])

# %% [markdown]
# ## Train from image labels only
#
# The commands need a configuration, here with a small network. Training uses only the image labels of the 240 training
# images; the masks of the folder are used for evaluation.

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
# `fit` trains a classifier. `seeds` localises each class with the class activation maps and the slots of the
# classifier, and writes a pseudo mask for each training image. `evaluate` trains a segmentation network on the pseudo
# masks, and compares all results with the ground truth.

# %%
# !glmix weakseg fit --config weak.yaml
# !glmix weakseg seeds --config weak.yaml
# !glmix weakseg evaluate --config weak.yaml

# %% [markdown]
# In the table, `seeds` and `segmenter` are evaluated on the 40 validation images, so `segmenter` can be compared with
# the mean IoU of UPerNet. Unlike the segmenter, the seeds of an image also use its image labels.
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
# In some images, the seeds confuse object and background, and the mask covers the background.
#
# ## Segment images
#
# Both networks are applied to validation images. After these few epochs, they segment the objects, but often confuse
# the two classes, which differ in texture.

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
