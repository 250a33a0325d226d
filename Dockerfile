# dist_jax on NVIDIA GPUs. docs/container.md has the commands.
#
#   docker build --tag dist_jax .
#   docker run --rm --gpus all dist_jax dist_jax.main --help

# requirements.txt and pyproject.toml limit the versions of all packages:
# hadolint global ignore=DL3013

# The wheels of JAX contain CUDA. The host needs the driver and NVIDIA's container toolkit.
ARG PYTHON_IMAGE=python:3.12.12-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ARG ACCELERATOR=cuda13
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build
# The requirements are a layer of their own: a change of the code does not install them again.
COPY requirements.txt ./
RUN pip install --requirement requirements.txt "jax[${ACCELERATOR}]"
COPY pyproject.toml README.md LICENSE ./
COPY dist_jax dist_jax
RUN pip install ".[serve]"

FROM ${PYTHON_IMAGE}
# /cache: weights of the Hugging Face hub, compiled programs. Any user may write there and to /runs (docker run --user).
RUN useradd --create-home --uid 1000 dist_jax && install --directory --mode=1777 /cache /runs
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/dist_jax
COPY configs configs
COPY examples examples
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TF_CPP_MIN_LOG_LEVEL=2 \
    XDG_CACHE_HOME=/cache \
    MPLCONFIGDIR=/cache/matplotlib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
EXPOSE 7860
ENTRYPOINT ["python", "-m"]
CMD ["dist_jax.main", "--help"]
