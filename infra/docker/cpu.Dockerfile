# `jina-sm serve` for CPUs: PyTorch without CUDA. Build it at the root of the repository:
#
#   docker build -f infra/docker/cpu.Dockerfile -t jina-sm:cpu --build-arg TORCH_INDEX_URL=URL .
#
# TORCH_INDEX_URL is PyTorch's own index of CPU builds (pytorch.org, "Get started"): elsewhere torch comes with
# gigabytes of CUDA. Not built where it was written: there was no engine.
FROM python:3.12-slim AS build
ARG TORCH_INDEX_URL
ARG TORCH_VERSION=2.13.0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/jina-sm
ENV PATH=/opt/jina-sm/bin:$PATH
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} "torch==${TORCH_VERSION}"
COPY pyproject.toml README.md LICENSE NOTICE /src/
COPY jina_sm /src/jina_sm
RUN pip install "/src[serve,torch]"

FROM python:3.12-slim
COPY --from=build /opt/jina-sm /opt/jina-sm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin jina-sm \
    && install --directory --owner=10001 --group=10001 /models
# The root file system may be read-only: models are written to /models, and nothing else is.
ENV PATH=/opt/jina-sm/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/models \
    JINA_SM_SERVE_HOST=0.0.0.0
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m \
    CMD ["python", "-c", "import os, ssl, urllib.request as asked; told = os.environ.get; asked.urlopen(f\"http{'s' if told('JINA_SM_SERVE_TLS_CERT') else ''}://127.0.0.1:{told('JINA_SM_SERVE_PORT', '8080')}/live\", timeout=4, context=ssl._create_unverified_context())"]
# SageMaker starts a container with the one word `serve`.
ENTRYPOINT ["jina-sm"]
CMD ["serve"]
