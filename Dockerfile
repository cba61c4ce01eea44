# One image for every role: `serve` (default), `serve --no-dispatch`, `work`, `migrate`, ...
# It brings no database: give it the address of a Postgres 15 or newer in DATABASE_URL.

FROM python:3.13-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /build
RUN python -m venv tools && python -m venv --without-pip /opt/receiver
COPY locks/build.txt locks/run.txt locks/
RUN tools/bin/pip install --no-deps --require-hashes -r locks/build.txt \
    && tools/bin/pip --python /opt/receiver install --no-deps --require-hashes -r locks/run.txt

COPY pyproject.toml README.md LICENSE schema.sql ./
COPY receiver receiver
RUN tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && tools/bin/pip --python /opt/receiver install --no-deps --no-index dist/*.whl \
    && /opt/receiver/bin/python -m compileall -q /opt/receiver/lib


FROM python:3.13-slim-bookworm

LABEL org.opencontainers.image.title="email-event-receiver" \
      org.opencontainers.image.description="Receives, verifies, normalizes and stores the webhooks of email providers, and runs handlers on the events" \
      org.opencontainers.image.licenses="Apache-2.0"

ENV PATH=/opt/receiver/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RECEIVER_HOST=0.0.0.0 \
    RECEIVER_DATA_DIR=/tmp/receiver

COPY --from=build /opt/receiver /opt/receiver
WORKDIR /app
COPY handlers handlers

# A number, so that an orchestrator can see that it is not root.
USER 10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["receiver", "health"]

ENTRYPOINT ["receiver"]
CMD ["serve"]
