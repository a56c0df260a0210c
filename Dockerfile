# Two stages: the first installs and compiles, the second only runs.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY service service
RUN python -m venv /opt/gradstep \
 && /opt/gradstep/bin/pip install --no-cache-dir '.[postgres]' \
 && /opt/gradstep/bin/pip uninstall --yes pip \
 && find /opt/gradstep -name tests -type d -prune -exec rm -rf {} +
# Symbols for debuggers are a tenth of what the image would be.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends binutils \
 && strip --strip-unneeded \
      /opt/gradstep/lib/python3*/site-packages/llvmlite/binding/*.so \
      /opt/gradstep/lib/python3*/site-packages/uvloop/*.so
# Compile every loop now, so that the service need not when it starts.
ENV NUMBA_CACHE_DIR=/opt/gradstep/kernels
RUN /opt/gradstep/bin/python -c "import gradstep_server.schedulers; from gradstep_server.optimizers import Compute, warm_up; warm_up(Compute(1))"

# The base without what only a build needs, so that the image holds none of it in a lower layer.
FROM python:3.13-slim AS base
RUN rm -rf /var/cache/* /var/lib/apt/lists/* /usr/share/doc /usr/share/man /usr/share/locale \
      /usr/lib/python3/dist-packages /usr/lib/python3*/ensurepip /usr/local/lib/python3*/ensurepip \
      /usr/local/lib/python3*/site-packages \
 # Group 0 is what `docker run --user UID` and OpenShift give to a user of any other number.
 && install --directory --owner=10001 --group=0 --mode=0770 /data

FROM scratch
COPY --from=base / /
LABEL org.opencontainers.image.title="gradstep" \
      org.opencontainers.image.description="Learning-rate schedules and optimizer steps as a service" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/gradstep /opt/gradstep
ENV PATH=/opt/gradstep/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/opt/gradstep/kernels \
    GRADSTEP_HOST=0.0.0.0 \
    GRADSTEP_STORE=sqlite:////data \
    GRADSTEP_KEYS_FILE=/data/keys.jsonl \
    GRADSTEP_FIRST_KEY_FILE=/data/admin-key
USER 10001:0
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, ssl, urllib.request as u; e = os.environ.get; s = 's' if e('GRADSTEP_SSL_CERTFILE') else ''; u.urlopen(f\"http{s}://127.0.0.1:{e('GRADSTEP_PORT') or 8000}/readyz\", timeout=2, context=ssl._create_unverified_context())"]
ENTRYPOINT ["gradstep-server"]
