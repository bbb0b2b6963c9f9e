# CPU:  make image
# CUDA: make image ACCEL=gpu                                     (pip brings CUDA; the host brings the driver)
#       make image ACCEL=gpu BASE=nvidia/cuda:13.0.2-base-ubuntu24.04   (where the site asks for NVIDIA's base)
# Run:  docker run --rm lfm4ads:cpu demo
#       docker run --rm --gpus all --shm-size 8g -v /data:/data lfm4ads:gpu pretrain CONFIG=... SET="..."
ARG BASE=python:3.11-slim
FROM ${BASE}

# Debian's python3 comes only where the base has none. make and bash are how the image is spoken to.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash make \
    && { python3 -c 'import ensurepip, venv' || apt-get install --yes --no-install-recommends python3 python3-venv; } \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 lfm4ads \
    && install --directory --owner lfm4ads --group lfm4ads /opt/venv /lfm4ads

USER lfm4ads
WORKDIR /lfm4ads
ARG ACCEL=cpu
ARG TORCH_INDEX=""
ENV VENV=/opt/venv ACCEL=${ACCEL} PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

# The locked packages are a layer of their own: a change of the sources does not install them anew.
COPY --chown=lfm4ads requirements requirements
COPY --chown=lfm4ads launch/__init__.py launch/check_install.py launch/install.sh launch/
RUN launch/install.sh locks

COPY --chown=lfm4ads . .
RUN launch/install.sh

ENTRYPOINT ["make"]
CMD ["help"]
