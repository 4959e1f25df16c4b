# %% [markdown]
# # Embed and search a collection
#
# An embedding is a feature vector that a network computes for an image. Similar images have similar vectors. This
# tutorial computes the embeddings of a folder, finds similar images and duplicates, and measures how well the vectors
# separate classes.

# %%
# !glmix scenes photos --layout imagefolder --size 48 --count-train 300 --count-val 120
# !glmix fit --config classification/scenes/single --data.scenes.size 48 --data.train_count 1500 --data.val_count 200 \
#     --trainer.max_epochs 5 --model.schedule.warmup_epochs 1 --trainer.default_root_dir out/start \
#     --logger csv

# %% [markdown]
# Add two copies of one image, one of them darker:

# %%
from pathlib import Path

from PIL import Image

first = sorted(Path("photos/train/04_ring_stripes").iterdir())[0]
Image.open(first).save("photos/train/copy.png")
Image.open(first).point(lambda value: int(0.9 * value)).save("photos/train/darker.png")

# %% [markdown]
# ## Embed
#
# The vectors are written to Parquet files. The same command continues an interrupted run, and several processes can
# share the work ([Inference on many images](../inference.md)).

# %%
# !glmix embed photos/train --checkpoint out/start/checkpoints/best.ckpt -o vectors --normalize
# !glmix embed photos/val --checkpoint out/start/checkpoints/best.ckpt -o queries --normalize

# %% [markdown]
# ## Search
#
# The left column shows images of the second collection, the others the most similar images of the first.

# %%
from glmix import inference

collection, queries = inference.load_embeddings("vectors"), inference.load_embeddings("queries")
print(collection.vectors.shape, queries.vectors.shape)
similarity, indices = inference.nearest(queries.vectors[::30], collection.vectors, k=5)

sheet = Image.new("RGB", (6 * 96, 4 * 96))
for row, (query, found) in enumerate(zip(queries.keys[::30], indices, strict=True)):
    for column, key in enumerate([query, *(collection.keys[index] for index in found)]):
        sheet.paste(Image.open(key).convert("RGB").resize((92, 92)), (96 * column, 96 * row))
sheet

# %% [markdown]
# `glmix neighbors vectors --queries queries -k 5 --html similar.html` writes the same results as an HTML page.
#
# ## Duplicates
#
# The exact copy is found. The darker one is less similar than this threshold.

# %%
for group in inference.near_duplicates(collection.vectors, threshold=0.999):
    names = [Path(collection.keys[index]).name for index in group]
    if {"copy.png", "darker.png"} & set(names):
        print(names)

# %% [markdown]
# ## How good are the vectors?
#
# A k-NN classifier and a linear probe (logistic regression) predict the class of an image, which is its folder, from
# its vector.

# %%
import numpy as np

keep = [i for i, key in enumerate(collection.keys) if Path(key).parent.name != "train"]
classes = sorted({Path(key).parent.name for key in queries.keys})
labels = np.array([classes.index(Path(collection.keys[i]).parent.name) for i in keep])
truth = np.array([classes.index(Path(key).parent.name) for key in queries.keys])
voted = inference.knn_classify(collection.vectors[keep], labels, queries.vectors, k=10)
probe = inference.linear_probe(collection.vectors[keep], labels, queries.vectors, truth)
print(f"k-NN {np.mean(voted == truth):.1%}, linear probe {probe.accuracy:.1%}")

# %% [markdown]
# `glmix probe vectors queries` prints both accuracies, and with `--shots 1 5 10` those for a few training images per
# class.
