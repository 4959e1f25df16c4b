# glmix with all extras. The base and the index of PyTorch decide between CPU and CUDA:
#
#   docker build -t glmix .
#   docker build -t glmix:cuda --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 \
#       --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" glmix demo
ARG BASE=ubuntu:24.04
FROM ${BASE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/glmix/bin:$PATH PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3013
RUN python3 -m venv /opt/glmix \
    && pip install "torch>=2.9" "torchvision>=0.24" --index-url "${TORCH_INDEX}"

# everything that a wheel is built from, and nothing else (.dockerignore)
COPY . /src
RUN pip install "/src[all]" && glmix --version

# any user id works (docker run --user), also one without an entry in /etc/passwd
ENV HOME=/tmp USER=glmix
RUN useradd glmix && install -d -o glmix /work
USER glmix
WORKDIR /work
ENTRYPOINT ["glmix"]
CMD ["--help"]
