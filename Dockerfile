# hiper in a container, on the CPU or on an NVIDIA GPU.
#
#   docker build -t hiper .
#   docker run --rm -v "$PWD:/work" hiper fit dog.png --caption "a standing dog" --out dog.safetensors
#   docker run --rm --gpus all -v "$PWD:/work" -v hiper-cache:/cache hiper edit dog.safetensors "a sitting dog" --out edits
#   docker run --rm -p 127.0.0.1:7860:7860 -v "$PWD:/work" hiper ui --host 0.0.0.0
#
# Plain pip installs torch's CUDA build on Linux, which runs on the CPU as well; --gpus needs the NVIDIA container
# toolkit. For a CPU image a third of the size name the index of torch's CPU builds, which PyTorch's "Get started" page
# tells: --build-arg TORCH_INDEX=URL. Checkpoints are kept in the volume /cache.

FROM python:3.12-slim

ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 HF_HOME=/cache/huggingface XDG_CACHE_HOME=/cache

WORKDIR /opt/hiper
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" "$(grep -o '^torch==[0-9.]*' constraints.txt)"; fi \
    && pip install -c constraints.txt ".[ui]"

RUN useradd --create-home hiper && mkdir -p /cache /work && chown hiper /cache /work
USER hiper
WORKDIR /work
VOLUME ["/cache"]
EXPOSE 7860
ENTRYPOINT ["hiper"]
CMD ["--help"]
