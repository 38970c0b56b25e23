# Images of the worker: `docker build --target cpu .` (demo and small models), `gpu` (TensorRT), `rtx` (TensorRT-RTX).
# Everything that is installed is a wheel that a lock file names with its hash; docs/deploy.md says how the images run.
ARG PYTHON_IMAGE=docker.io/library/python:3.13.13-slim-bookworm@sha256:355bfa66770995d7e9a0da4b3473b44d0cb451f6b56f5615ad9c39e3c4eca03f

# The wheels that the locks name.
FROM ${PYTHON_IMAGE} AS locked
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
WORKDIR /src
RUN python3 -m venv /build
COPY requirements.lock ./
RUN /build/bin/pip download --require-hashes --only-binary :all: --requirement requirements.lock --dest /wheels

FROM locked AS locked-rtx
COPY requirements-rtx.lock ./
RUN /build/bin/pip download --require-hashes --only-binary :all: --requirement requirements-rtx.lock --dest /wheels

# TensorRT is not on PyPI but on NVIDIA's own index: PyPI's source packages, named here, fetch it from there.
FROM locked AS locked-gpu
COPY requirements-gpu.lock ./
RUN /build/bin/pip wheel --require-hashes --only-binary :all: --no-binary tensorrt,tensorrt-cu13,tensorrt-cu13-libs \
        --requirement requirements-gpu.lock --wheel-dir /wheels

# The worker itself, with the build backend that the lock names.
FROM locked AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY worker worker
RUN /build/bin/pip wheel --no-index --find-links /wheels --no-deps --wheel-dir /dist .

# What runs, and nothing that was only needed to make it.
FROM locked AS installed-cpu
COPY --from=wheel /dist /wheels
RUN python3 -m venv --without-pip /opt/trt-worker \
    && /build/bin/pip --python /opt/trt-worker/bin/python install --no-index --find-links /wheels 'tensorrt-kafka-worker[cpu]'

FROM locked-rtx AS installed-rtx
COPY --from=wheel /dist /wheels
RUN python3 -m venv --without-pip /opt/trt-worker \
    && /build/bin/pip --python /opt/trt-worker/bin/python install --no-index --find-links /wheels 'tensorrt-kafka-worker[cpu,rtx]'

FROM locked-gpu AS installed-gpu
COPY --from=wheel /dist /wheels
RUN python3 -m venv --without-pip /opt/trt-worker \
    && /build/bin/pip --python /opt/trt-worker/bin/python install --no-index --find-links /wheels 'tensorrt-kafka-worker[cpu,gpu]'

# What all images share. At run time only /tmp and /engines are written to, so the root file system may be read-only.
FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="TensorRT Kafka worker" \
      org.opencontainers.image.description="Kafka consumer service that runs TensorRT inference on msgpack-encoded tensors" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN rm -rf /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip /usr/local/bin/pip* \
    && groupadd --system --gid 10001 worker \
    && useradd --system --uid 10001 --gid worker --home-dir /tmp --no-create-home --shell /usr/sbin/nologin worker \
    && install --directory --owner worker --group worker /engines \
    && ln -s /engines /srv/engines
ENV PATH=/opt/trt-worker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
WORKDIR /srv
COPY config/worker.yaml /etc/trt-worker/worker.yaml
COPY worker/demo/digits.onnx worker/demo/digits.onnx
USER 10001:10001
VOLUME ["/tmp", "/engines"]
EXPOSE 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('TRT_WORKER__HTTP__PORT', '9090') + '/healthz', timeout=4)"]
ENTRYPOINT ["trt-worker"]
CMD ["run", "--config", "/etc/trt-worker/worker.yaml"]

FROM runtime AS rtx
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=installed-rtx /opt/trt-worker /opt/trt-worker

FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=installed-gpu /opt/trt-worker /opt/trt-worker

# The demo listens where the health check asks and a published port leads; the service keeps its own settings.
FROM runtime AS cpu
ENV TRT_WORKER_DEMO__HTTP__HOST=0.0.0.0 TRT_WORKER_DEMO__HTTP__PORT=9090
COPY --from=installed-cpu /opt/trt-worker /opt/trt-worker
CMD ["demo"]
